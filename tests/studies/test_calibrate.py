"""Calibration: what is planted, what is advised, and the file that `train` takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.studies.test_ablation import in_process  # noqa: F401
from tests.system.tiny_run import SHAPE, over
from topk_ortho import cli
from topk_ortho.commands.reader import parse
from topk_ortho.config import TrainConfig
from topk_ortho.studies import calibrate
from topk_ortho.studies.calibrate import Setting, choose

TINY = over(SHAPE, "--sae.kind", "topk", "--checkpoint-every", "1000",
        "--activations", "files", "--data", "shards",
        "--plant.roots", "3", "--plant.children", "2")  # fmt: skip


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)  # of rank 2, so that even a tiny SAE is healthy
    rows = (random.standard_normal((3000, 2)) @ random.standard_normal((2, 24))).astype(np.float32)
    (tmp_path / "shards").mkdir()
    np.save(tmp_path / "shards" / "a.npy", rows)
    return tmp_path


def test_from_activations_to_a_setting(shards, in_process, capsys):  # noqa: F811
    arguments = ["calibrate", *over(TINY, "--seeds", "2", "--l0", "3", "--coefficients", "4")]
    assert cli.main([*arguments, "--out", "c"]) == 0
    out = capsys.readouterr().out
    assert "3 parent features, firing on 0.4 to 0.1" in out and "stand-in" in out
    for k in (3, 4):
        for label in ("none", "coefficient 4"):
            assert f"L0 {k}, {label}" in out
    assert out.count("  its pairs lie among ") == 2 and " living features at the end" in out
    assert "At L0 3: " in out and "At L0 4 (yours): " in out
    assert "Of the L0 that were tried: " in out or "the SAE itself is not healthy" in out
    assert len(in_process) == 2 * 2 * 2
    settings = parse(["--config", "c/chosen.toml"]).settings
    assert not settings.plant.enabled
    assert settings.activations == "files" and settings.sae.k == 4
    assert cli.main(["train", "--config", "c/chosen.toml", "--out", "run"]) == 0
    before = len(in_process)
    assert cli.main([*arguments, "--out", "c"]) == 0
    assert len(in_process) == before


def test_synthetic_data_and_no_constraint_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["calibrate", "--steps", "9"]) == 2
    assert "your own were expected" in capsys.readouterr().err
    Path("shards").mkdir()
    assert cli.main(["calibrate", *over(TINY, "--pairs.criterion", "none")]) == 2
    assert "a constraint to calibrate" in capsys.readouterr().err
    assert cli.main(["calibrate", *over(TINY, "--coefficients", "0")]) == 2
    assert "above 0" in capsys.readouterr().err


def test_the_grid_stays_within_what_can_be_trained():
    base = TrainConfig(activations="files", data=Path("x"))
    plan = calibrate._plan(base, coefficients=(), l0=(), seeds=(1,))
    assert [axis.values for axis in plan.axes] == [(4.0, 8.0, 16.0), (0.667, 2.0, 6.0)]
    assert plan.base.plant.enabled
    labels = {label for label, _ in plan.subjects()}
    assert {f"none, sae.k={k}" for k in (4, 8, 16)} < labels and len(labels) == 12


def setting(coefficient: float, excess: float, explained_variance: float = 0.9) -> Setting:
    figures = {"absorption_rate": excess + 0.1, "base_miss": 0.1, "excess": excess,
               "explained_variance": explained_variance}  # fmt: skip
    return Setting(8.0, coefficient, (), {100: figures, 101: figures})


def test_the_setting_that_removes_most_for_little_is_taken():
    none = setting(0, 0.2)
    tried = [setting(1, 0.12), setting(3, 0.05, 0.895), setting(9, 0.01, 0.88)]
    chosen, why = choose(none, tried)
    assert chosen is tried[1]
    assert "75%" in why and "0.200 -> 0.050" in why


@pytest.mark.parametrize(
    ("none", "tried", "said"),
    [
        (setting(0, 0.01), [setting(1, 0.0)], "no constraint is needed"),
        (setting(0, 0.2), [setting(1, 0.0, 0.8)], "more than 0.008 of explained variance"),
        (setting(0, 0.2), [setting(1, 0.19)], "removes only 0.010"),
        (setting(0, 0.2, 0.3), [setting(1, 0.0, 0.3)], "the SAE itself is not healthy"),
        (Setting(8.0, 0, (), {}), [setting(1, 0.0)], "could not be measured"),
    ],
)
def test_where_nothing_is_advised_it_says_why(none, tried, said):
    chosen, why = choose(none, tried)
    assert chosen is None
    assert said in why


def test_which_l0_need_it():
    none, cured = setting(0, 0.2), setting(3, 0.02)
    taken = {6.0: (none, cured, ""), 12.0: (none, None, ""), 24.0: (setting(0, 0.0), None, "")}
    assert calibrate._by_need(taken) == (
        "\nOf the L0 that were tried: take the constraint at L0 6 and train without it at L0 12 "
        "and 24."
    )
    unfit = setting(0, 0.2, 0.3)
    assert calibrate._by_need({6.0: (unfit, None, "")}) == ""


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (99, ["  its pairs lie among 99 of 1,000 living features at the end, so it is idle for the "
              "rest; compare criteria: --pairs.criterion"]),
        (100, ["  its pairs lie among 100 of 1,000 living features at the end"]),
        (None, []),
    ],
)  # fmt: skip
def test_an_idle_constraint_is_called_so(features, said):
    metrics = {} if features is None else {"pairs_features": features, "living_features": 1000}
    assert calibrate._reached(Setting(8.0, 1.0, (), {100: metrics})) == said


def test_one_seed_is_said_to_be_one(shards, in_process, capsys):  # noqa: F811
    arguments = over(TINY, "--seeds", "1", "--l0", "4", "--coefficients", "4", "--out", "c")
    assert cli.main(["calibrate", *arguments]) == 0
    out = capsys.readouterr().out
    assert "unavailable" not in out and out.count("(one seed)") == 4
    assert "One seed has no interval, so any of this may be chance; --seeds 3 tells more." in out
