"""An arm differs from the default arm in what its name says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import topk_ortho
from tests.system.tiny_run import OPTIONS, events, over, tiny
from topk_ortho.commands.reader import parse
from topk_ortho.config import PairsConfig, PenaltyConfig, TrainConfig
from topk_ortho.config.rules import check
from topk_ortho.config.toml import config_hash, to_table
from topk_ortho.studies.arms import ALWAYS_ON, arms
from topk_ortho.studies.recipes import RECIPES

ORTSAE = {
    "pairs.criterion": "ortsae",
    "penalty.threshold": 0.0,
    "penalty.gradient": "symmetric",
}
C2R = {**ORTSAE, "pairs.criterion": "c2r", "penalty.every_n": 5}
DETACHED = {**C2R, "penalty.pair_weight": "activity-detached"}
DIFFERENCES: dict[str, dict[str, object]] = {
    "none": {"pairs.criterion": "none"},
    "default": {},
    "coactivation": {"pairs.criterion": "coactivation"},
    "coactive-cosine": {"pairs.criterion": "coactive-cosine"},
    "random": {"pairs.criterion": "random"},
    "rate-matched-random": {"pairs.criterion": "rate-matched-random"},
    "ortsae": ORTSAE,
    "ortsae-every-5": {**ORTSAE, "penalty.every_n": 5},
    "ortsae-child-only": {"pairs.criterion": "ortsae", "penalty.threshold": 0.0},
    "c2r": C2R,
    "c2r-every-step": {n: v for n, v in C2R.items() if n != "penalty.every_n"},
    "c2r-detached": DETACHED,
    "c2r-child-only": {n: v for n, v in DETACHED.items() if n != "penalty.gradient"},
    "matryoshka": {"pairs.criterion": "none", "sae.kind": "matryoshka"},
    "matryoshka+constraint": {"sae.kind": "matryoshka"},
}


def flat(config: TrainConfig) -> dict[str, object]:
    out: dict[str, object] = {}
    for name, value in to_table(config).items():
        if isinstance(value, dict):
            out |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            out[name] = value
    return out


def test_arms_differ_in_what_their_names_say() -> None:
    base = TrainConfig()
    found = arms(base)
    assert list(found) == list(DIFFERENCES)
    before = flat(base)
    for name, config in found.items():
        check(config)
        after = flat(config)
        assert {k: v for k, v in after.items() if before.get(k) != v} == DIFFERENCES[name], name
    assert set(ALWAYS_ON) <= set(found)
    assert len({config_hash(config) for config in found.values()}) == len(found)


def test_coefficients_go_with_the_criterion() -> None:
    given = TrainConfig(penalty=PenaltyConfig(coefficient=5.0))
    weights = {name: arm.coefficient() for name, arm in arms(given).items()}
    assert weights["default"] == weights["matryoshka+constraint"] == 5.0
    assert weights["random"] == weights["rate-matched-random"] == 1.0
    assert weights["ortsae"] == weights["ortsae-every-5"] == weights["ortsae-child-only"] == 0.1
    assert weights["c2r"] == weights["c2r-every-step"] == weights["c2r-child-only"] == 5.0
    assert weights["coactive-cosine"] == 0.2


def test_published_rivals_do_not_depend_on_the_axes_of_our_own_penalty() -> None:
    other = TrainConfig(
        pairs=PairsConfig(fraction=0.01, max_pairs=9),
        penalty=PenaltyConfig(tau="mean-std", coefficient=1.0, normalize_by="k", units="absolute"),
    )
    for name in DIFFERENCES:
        if not name.startswith(("ortsae", "c2r")):
            continue
        assert config_hash(arms(other)[name]) == config_hash(arms(TrainConfig())[name])


def test_no_arm_trains_a_baseline_beside_it() -> None:
    assert not any(arm.with_baseline for arm in arms(TrainConfig(with_baseline=True)).values())


@pytest.mark.parametrize("name", ["rate-matched-random", "ortsae", "ortsae-every-5", "c2r"])
def test_new_arms_train_with_a_history_of_distinct_pairs(name, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("topk_ortho.training.evaluation.CALIBRATION_ROWS", 2048)
    result = topk_ortho.train(arms(tiny())[name], tmp_path / "run", progress=False)
    assert result["steps"] == 60
    logged = events(tmp_path / "run")
    assert all(event["orthogonality"] > 0 for event in logged)
    assert all(0 <= event["jaccard"] <= 1 for event in logged[1:])
    steps_with = [e["step"] for e in logged if e["penalty"] > 0]
    every = 5 if name in ("ortsae-every-5", "c2r") else 1  # the line of step 57 is about step 56
    assert all((step - 1) % every == 0 for step in steps_with)
    if name.startswith(("ortsae", "c2r")):
        assert {e["pairs_requested"] for e in logged} == {64}


@pytest.mark.parametrize("criterion", ["ortsae", "c2r", "rate-matched-random"])
def test_an_interrupted_run_of_a_new_arm_goes_on_bit_for_bit(
    criterion, tmp_path: Path, monkeypatch
):
    from tests.system.tiny_run import assert_same
    from topk_ortho.training import Interrupted, resume, train

    monkeypatch.setattr("topk_ortho.training.evaluation.CALIBRATION_ROWS", 2048)
    config = parse(over(OPTIONS, "--pairs.criterion", criterion)).settings
    config = replace(config, sae=replace(config.sae, kind="jumprelu"))
    train(config, tmp_path / "whole", progress=False)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "cut", progress=False, stop_after=31)
    resume(tmp_path / "cut", progress=False)
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_controls_of_a_penalty_in_other_units_keep_its_weight() -> None:
    found = arms(RECIPES["fixed-tau"].config())
    for name in ("random", "rate-matched-random", "coactive-cosine"):
        penalty = found[name].penalty
        assert (found[name].coefficient(), penalty.units, penalty.normalize_by) == (
            0.1,
            "absolute",
            "k",
        )
