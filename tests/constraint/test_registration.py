"""A criterion from outside the package: one record, and the rest follows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.training.states import state
from topk_ortho import Criterion, OrthogonalityConfig, PairsConfig, PairSelector, register_criterion
from topk_ortho.commands.reader import parse
from topk_ortho.config import ConfigError
from topk_ortho.constraint.criteria import CRITERIA, CoactiveSum
from topk_ortho.constraint.orthogonality import Orthogonality
from topk_ortho.training.step import train_step

NAME = "squared-coactivation"


@pytest.fixture
def squared(monkeypatch: pytest.MonkeyPatch) -> Criterion:
    """`Σ_b (f_bi f_bj)²`, registered for one test."""
    CRITERIA.names()
    monkeypatch.setattr(CRITERIA, "_records", dict(CRITERIA._records))
    form = CoactiveSum(lambda e: e.codes.value.double() ** 2)
    return register_criterion(Criterion(NAME, "`Σ_b (f_bi f_bj)²`", form, coefficient=0.7))


def test_it_selects_what_its_formula_says(squared: Criterion) -> None:
    acts = torch.rand(16, 30) * (torch.rand(16, 30) > 0.7)
    got = PairSelector(NAME, per_feature=1)(acts)
    square = acts.double() ** 2
    scores = (square.T @ square).triu(1)
    assert torch.allclose(got.score, scores.flatten().topk(30).values.float())
    assert torch.allclose(scores[got.i, got.j].float(), got.score)


def test_it_trains_through_the_public_configuration(squared: Criterion) -> None:
    run = state(pairs={"criterion": "squared_coactivation"}, penalty={"ramp": 0.0})
    for _ in range(3):
        step = train_step(run, run.buffer.next())
    assert run.config.coefficient() == 0.7
    assert len(run.constraint.selection) > 0 and float(step.penalty) > 0
    assert Orthogonality(OrthogonalityConfig(pairs=PairsConfig(NAME))).selector.criterion == NAME


def test_it_is_an_option_and_in_the_help(squared: Criterion, capsys) -> None:
    assert parse(["--pairs.criterion", NAME]).settings.pairs.criterion == NAME
    with pytest.raises(SystemExit):
        parse(["--help"])
    assert NAME in "".join(capsys.readouterr().out.split())
    with pytest.raises(ConfigError, match=f"perhaps you meant {NAME}"):
        parse(["--pairs.criterion", "squared-coactivatio"])


def test_what_no_step_has_is_refused(squared: Criterion) -> None:
    with pytest.raises(ValueError, match="required_inputs weather"):
        register_criterion(replace(squared, name="w", required_inputs=frozenset({"weather"})))
    with pytest.raises(ValueError, match="there is one of that name"):
        register_criterion(squared)
