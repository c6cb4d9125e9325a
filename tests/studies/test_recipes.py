"""Every run of the source experiment is a recipe that trains to its end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import topk_ortho
from tests.system.tiny_run import OPTIONS, SYNTHETIC, events, over, words
from topk_ortho import cli
from topk_ortho.commands.reader import parse
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.rules import check
from topk_ortho.studies.recipes import RECIPES, recipe

# name: criterion, τ, history, run, as the method has them
TABLE = {
    "baseline": ("none", "fixed", True, "B 10"),
    "fixed-tau": ("correlation", "fixed", False, "A 1, B 1"),
    "adaptive-tau": ("coactivation", "mean-std", False, "A 2"),
    "strength-tau": ("correlation", "strength", False, "B 2"),
    "stability": ("correlation", "strength", True, "B 3"),
    "gradient": ("gradient", "strength", True, "B 4"),
    "gradient-accumulated": ("gradient-accumulated", "strength", True, "B 5"),
    "gradient-batchwise": ("gradient-batchwise", "strength", True, "B 6"),
    "single-pass": ("correlation", "strength", True, "B 7"),
    "bounded-memory": ("correlation", "strength", False, "B 8"),
    "magnitude": ("magnitude", "strength", True, "B 9"),
    "linear-schedule": ("coactivation", "mean-std", False, "A 3"),
    "exponential-schedule": ("coactivation", "mean-std", False, "A 4"),
}
LARGER = words(
    "--sae.d-sae 128 --batch-size 64 --synthetic.root-rate-high 0.5 "
    "--synthetic.independent-rate-high 0.5"
)


@pytest.fixture(autouse=True)
def _short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topk_ortho.training.evaluation.CALIBRATION_ROWS", 2048)


def test_there_are_the_thirteen_of_the_method() -> None:
    assert list(RECIPES) == list(TABLE)
    for name, (criterion, tau, history, run) in TABLE.items():
        config = check(RECIPES[name].config())
        assert (config.pairs.criterion, config.penalty.tau) == (criterion, tau)
        assert (config.history.enabled, RECIPES[name].run) == (history, run)
        assert RECIPES[name].name == name
        assert RECIPES[name].summary.count("\n") == 0


@pytest.mark.parametrize("name", [name for name in TABLE if name != "baseline"])
def test_all_of_them_share_the_documents_setting(name: str) -> None:
    config = RECIPES[name].config()
    p = config.penalty
    assert (p.coefficient, p.units, p.normalize_by, p.gradient) == (
        0.1,
        "absolute",
        "k",
        "symmetric",
    )
    assert (p.ramp, p.threshold, config.pairs.fraction) == (0.0, 0.1, 0.001)
    rising = name.endswith("schedule")
    assert config.pairs.schedule == (name.removesuffix("-schedule") if rising else "constant")
    assert config.pairs.final_fraction == (0.005 if rising else None)
    assert config.pairs.schedule_steps == (10_000 if rising else None)


def test_a_recipe_keeps_data_dictionary_and_optimiser() -> None:
    base = parse(over(OPTIONS, "--seed", "5", "--lr", "0.01")).settings
    for r in RECIPES.values():
        config = r.config(base)
        assert (config.seed, config.lr, config.sae) == (5, 0.01, base.sae)
        assert config.synthetic == base.synthetic


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_to_the_end(name: str, tmp_path: Path) -> None:
    support = ["--pairs.min-support", "1"] if TABLE[name][0] == "correlation" else []
    config = parse(["--recipe", name, *over(OPTIONS, *LARGER, *support)]).settings
    assert config.pairs.criterion == TABLE[name][0]
    result = topk_ortho.train(config, tmp_path / "run", progress=False)
    assert result["steps"] == 60
    logged = events(tmp_path / "run")
    assert logged[-1]["step"] == 60
    for event in logged:
        assert event["memory_allocated"] > 0
        assert event["pairs"] in ((0,) if name == "baseline" else (8, 9))  # 0.1 % of 8,128
    assert (tmp_path / "run" / "history.bin").exists() == (TABLE[name][2] and name != "baseline")
    if name != "baseline":
        assert any(event["orthogonality"] > 0 for event in logged)


def test_single_pass_accounts_for_every_temporary_in_the_log(tmp_path: Path) -> None:
    config = parse(["--recipe", "single-pass", *over(OPTIONS, *LARGER)]).settings
    topk_ortho.train(config, tmp_path / "run", progress=False)
    for event in events(tmp_path / "run"):
        held = event["selection_temporaries"]
        assert event["selection_blocks"] == 1  # one pass
        assert event["selection_held"] == sum(held.values())
        assert 0 < event["selection_held"] < event["selection_budget"]
        assert held["constraint/selection/native.py blocks"] >= 24 * event["pairs_positive"]
    plain = parse(["--recipe", "stability", *over(OPTIONS, *LARGER)]).settings
    topk_ortho.train(plain, tmp_path / "plain", progress=False)
    assert "selection_temporaries" not in events(tmp_path / "plain")[0]


def test_bounded_memory_logs_the_blocks_it_took(tmp_path: Path) -> None:
    small = ["--sae.d-sae", "400", "--sae.k", "30", "--batch-size", "128", "--steps", "8"]
    config = parse(["--recipe", "bounded-memory", *over(OPTIONS, *small)]).settings
    topk_ortho.train(config, tmp_path / "run", progress=False)
    event = events(tmp_path / "run")[-1]
    assert event["selection_budget"] == 2**21
    assert event["selection_blocks"] > 1
    assert 0 < event["selection_largest_block"] <= 2**20 // 64


@pytest.mark.parametrize("name", ["gradient", "magnitude"])
def test_a_recipe_without_a_step_fails_and_says_why(name, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--recipe", name, *SYNTHETIC, "--steps", "0"]) == 2
    error = capsys.readouterr().err
    assert "--steps 0" in error
    assert "at least 1 step" in error
    assert not list(tmp_path.iterdir())


def test_options_override_a_recipe_and_a_recipe_overrides_a_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('seed = 4\n[penalty]\ntau = "stability"\n[pairs]\nper_feature = 5.0\n')
    config = parse(["--config", str(path), "--recipe", "strength_tau"]).settings
    assert (config.seed, config.penalty.tau, config.pairs.fraction) == (4, "strength", 0.001)
    config = parse(words("--recipe gradient --penalty.tau fixed --pairs.fraction .01")).settings
    assert (config.pairs.criterion, config.penalty.tau) == ("gradient", "fixed")
    assert config.pairs.fraction == 0.01
    sized = parse(words("--recipe linear-schedule --pairs.per-feature 2")).settings.pairs
    assert (sized.per_feature, sized.fraction, sized.schedule) == (2.0, None, "constant")
    assert parse(words("--recipe fixed-tau --pairs.criterion ortsae")).settings.constrained


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"--recipe fixed-tao .*meant fixed-tau"):
        parse(["--recipe", "fixed-tao"])
    assert recipe("fixed_tau") is RECIPES["fixed-tau"]


def test_the_command_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(RECIPES)
    for line, r in zip(lines, RECIPES.values(), strict=True):
        assert r.run in line
        assert line.endswith(r.summary)
        assert len(line) <= 120


def test_the_default_is_no_recipe() -> None:
    assert parse(["--seed", "0"]).settings == TrainConfig()


def test_folders_of_other_settings_are_refused(tmp_path: Path, capsys) -> None:
    out = tmp_path / "r"
    run = ["train", "--recipe", "magnitude", *over(OPTIONS, "--out", str(out / "magnitude"))]
    out.mkdir()
    assert cli.main(run) == 0
    assert cli.main(["recipes", "--out", str(out), *over(OPTIONS, "--steps", "99")]) == 2
    assert "magnitude holds a run with other settings" in capsys.readouterr().err


def test_the_bounded_recipe_says_what_it_took_and_can_be_halved(tmp_path: Path) -> None:
    from topk_ortho.constraint.selection.retry import LEAST_BUDGET

    assert RECIPES["bounded-memory"].config().pairs.memory_budget >= 2 * LEAST_BUDGET
    run = ["train", "--recipe", "bounded-memory", *over(OPTIONS, "--out", str(tmp_path / "b"))]
    assert cli.main(run) == 0
    result = json.loads((tmp_path / "b" / "result.json").read_text())
    assert result["selection_budget"] == RECIPES["bounded-memory"].config().pairs.memory_budget
    assert result["selection_blocks"] >= 1 and result["selection_largest_block"] >= 1
