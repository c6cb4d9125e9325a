"""What pairs reach where a few rows are much louder than the others."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.system.tiny_run import events, tiny
from topk_ortho import Orthogonality, OrthogonalityConfig, PairSelector
from topk_ortho.config import PairsConfig
from topk_ortho.constraint.reach import LOOK_EVERY, LOOKS, Idle, Reach, reach
from topk_ortho.training import train

D_SAE, CLIQUE = 1024, 80


def acts(seed: int = 0, *, loud: float = 100.0) -> Tensor:
    """`[512, D_SAE]`: 8 features a row, and 5 rows that are louder and have one clique of them."""
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(512, D_SAE, generator=generator).argsort(1).argsort(1) < 8
    on[:5] = torch.arange(D_SAE) < CLIQUE
    value = torch.rand(512, D_SAE, generator=generator) + 0.5
    value[:5] *= loud
    return value * on


def selected(criterion: str, x: Tensor) -> Tensor:
    pairs = PairSelector(criterion, per_feature=2.5)(x)
    return torch.cat([pairs.i, pairs.j]).unique()


def test_the_literal_rule_chooses_rows_and_the_other_one_features() -> None:
    assert len(selected("coactivation", acts())) <= CLIQUE
    assert len(selected("row-coactivation", acts())) > D_SAE / 2


def test_the_size_of_a_row_has_no_influence() -> None:
    x = acts()
    scale = torch.exp2(torch.randint(-20, 20, (len(x), 1), generator=torch.Generator()).float())
    as_it_is, scaled = (PairSelector("row-coactivation")(batch) for batch in (x, scale * x))
    assert torch.equal(as_it_is.i, scaled.i) and torch.equal(as_it_is.j, scaled.j)
    assert torch.equal(as_it_is.score, scaled.score)


def test_what_is_counted() -> None:
    i, j = torch.tensor([0, 0, 2]), torch.tensor([1, 2, 3])
    rate = torch.tensor([0.1, 0.1, 0.1, 0.0, 0.1, 0.0])
    found = reach(i, j, torch.tensor([True, False, False]), rate)
    assert found == Reach(pairs=3, overlapping=pytest.approx(1 / 3), features=4, living=5)
    none = reach(i[:0], j[:0], torch.zeros(0, dtype=torch.bool), rate)
    assert none == Reach(pairs=0, overlapping=0.0, features=0, living=4)


def test_pairs_above_their_threshold_are_counted_by_the_constraint() -> None:
    constraint = Orthogonality(OrthogonalityConfig(variance=1.0, decoder="rows"))
    W_dec, rate = torch.eye(4, requires_grad=True), torch.full((4,), 0.1)
    assert constraint.reach(W_dec, rate) is None
    x = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
    constraint(x, W_dec, 0)
    assert constraint.reach(W_dec, rate) == Reach(pairs=2, overlapping=0.0, features=3, living=4)
    overlap = torch.eye(4)
    overlap[1, 0] = 0.2
    found = constraint.reach(overlap, rate)
    assert found is not None and found.overlapping == 0.5


NARROW = Reach(pairs=100, overlapping=0.12, features=5, living=100)


def test_it_warns_once_and_not_of_one_odd_batch() -> None:
    wide = replace(NARROW, features=90)
    idle = Idle()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for found in (NARROW, wide) * LOOKS:
            idle.look(0, found)
        for _ in range(LOOKS - 1):
            idle.look(0, NARROW)
    with pytest.warns(UserWarning, match=r"5 of 100 living features, and 12% .* row-coactivation"):
        idle.look(7, NARROW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        idle.look(8, NARROW)


def test_few_pairs_may_lie_among_few_features() -> None:
    assert not replace(NARROW, pairs=50).narrow


@pytest.mark.parametrize(("criterion", "warned"), [("coactivation", 1), ("row-coactivation", 0)])
def test_a_loop_of_ones_own_is_warned(criterion: str, warned: int) -> None:
    constraint = Orthogonality(OrthogonalityConfig(pairs=PairsConfig(criterion), variance=1.0))
    W_dec = torch.nn.functional.normalize(torch.randn(D_SAE, 16)).requires_grad_()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(0, LOOKS * LOOK_EVERY + 1, LOOK_EVERY // 2):
            constraint(acts(step), W_dec, step)
    assert sum("the constraint is idle" in str(w.message) for w in caught) == warned


def test_a_run_logs_it(tmp_path: Path) -> None:
    train(tiny("--steps", "20", "--log-every", "10"), tmp_path / "run", progress=False)
    for line in events(tmp_path / "run"):
        assert 0 <= line["pairs_overlapping"] <= 1
        assert 0 < line["pairs_features"] <= line["living_features"] <= 64
        assert line["penalty_share"] == pytest.approx(line["penalty"] / line["loss"], abs=1e-6)
