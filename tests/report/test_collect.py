"""Folders become comparisons: paired by seed, named by what differs, failures kept in sight."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.report.folders import BETTER, FIGURES, HOSTILE, ablation, arm_folders, run_folder
from topk_ortho.config import ConfigError
from topk_ortho.report.collect import collect
from topk_ortho.report.reading import read_run


def names(comparison) -> dict[str, list[int | None]]:
    return {arm.name: [run.seed for run in arm.runs] for arm in comparison.arms}


def test_bars_are_one_comparison_for_each_setting(tmp_path: Path) -> None:
    for setting in ("forest-240", "planted-6"):
        for arm in ("random", "coactivation", "none"):
            arm_folders(tmp_path / setting, arm, plant={"enabled": setting == "planted-6"})
    found = collect([tmp_path])
    assert [comparison.title for comparison in found] == ["forest-240", "planted-6"]
    seeds = [100, 101, 102]
    assert names(found[0]) == {"none": seeds, "coactivation": seeds, "random": seeds}
    none, constrained, _ = found[0].arms
    assert found[0].control(constrained) is none
    assert found[0].control(none) is None


def test_a_run_with_a_baseline_beside_it(tmp_path: Path) -> None:
    run_folder(tmp_path / "run")
    run_folder(tmp_path / "run" / "baseline", criterion="none")
    (comparison,) = collect([tmp_path / "run"])
    assert names(comparison) == {"none": [100], "coactivation": [100]}
    assert comparison.title == "synthetic forest-240, 64 features, L0 8"


def test_runs_of_one_criterion_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    run_folder(tmp_path / "a", penalty={"tau": "fixed"})
    run_folder(tmp_path / "b", penalty={"tau": "mean-std"})
    run_folder(tmp_path / "a" / "baseline", criterion="none")
    run_folder(tmp_path / "b" / "baseline", criterion="none", penalty={"tau": "mean-std"})
    (comparison,) = collect([tmp_path])
    assert set(names(comparison)) == {
        "none",
        "coactivation, tau fixed",
        "coactivation, tau mean-std",
    }
    assert comparison.notes == ()


def test_the_same_run_twice_counts_once_and_a_difference_is_said(tmp_path: Path) -> None:
    run_folder(tmp_path / "a")
    run_folder(tmp_path / "b", figures=FIGURES | {"explained_variance": 0.8})
    (comparison,) = collect([tmp_path, tmp_path / "a"])
    assert names(comparison) == {"coactivation": [100]}
    assert len(comparison.notes) == 1
    assert "ended otherwise" in comparison.notes[0]


@pytest.mark.parametrize("change", [{"sae": {"k": 4.0}}, {"synthetic": {"preset": "forest-256"}}])
def test_other_data_or_sizes_are_not_compared(tmp_path: Path, change: dict) -> None:
    run_folder(tmp_path / "a")
    run_folder(tmp_path / "b", **change)
    assert len(collect([tmp_path])) == 2


def test_an_ablation_as_planned(tmp_path: Path) -> None:
    ablation(tmp_path / "grid", values={"fixed": {}, "mean-std": {}}, seeds=(100, 101))
    (comparison,) = collect([tmp_path])
    assert comparison.title == "grid"
    both = [100, 101]
    assert names(comparison) == {
        "none": both, "tau=fixed": both, "tau=mean-std": both, "rate-matched-random": both,
    }  # fmt: skip
    failed, absent = comparison.arms[-1].runs
    assert failed.failed
    assert HOSTILE in (failed.problem or "")
    assert (absent.failed, absent.problem) == (False, "not run yet")
    assert "ortsae" in comparison.notes[0]


def test_the_control_is_the_one_in_the_same_cell(tmp_path: Path) -> None:
    runs = []
    for k in (4.0, 8.0):
        for arm, criterion in (("none", "none"), ("variant", "coactivation")):
            name = f"{len(runs):016x}"
            run_folder(tmp_path / "runs" / name, criterion=criterion, sae={"k": k})
            label = f"{arm}, sae.k={k:g}"
            runs.append({"label": label, "arm": arm, "axis": {"sae.k": k}, "seed": 100,
                         "hash": name, "folder": f"runs/{name}"})  # fmt: skip
    (tmp_path / "ablation.json").write_text(json.dumps({"version": 1, "runs": runs}))
    (comparison,) = collect([tmp_path])
    by_name = {arm.name: arm for arm in comparison.arms}
    for k in ("4", "8"):
        assert comparison.control(by_name[f"variant, k={k}"]) is by_name[f"none, k={k}"]


@pytest.mark.fault("damaged run folders in a report")
def test_unfinished_torn_and_damaged_runs_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    unfinished = run_folder(tmp_path / "a", figures={})
    assert read_run(unfinished, arm="x").problem == "not finished: step 200 of 200"
    with (unfinished / "metrics.jsonl").open("a") as file:
        file.write('{"step": 25')
    assert read_run(unfinished, arm="x").lines[-1]["step"] == 200
    silent = run_folder(tmp_path / "b", figures={}, lines=[{"step": 1}])
    (silent / "metrics.jsonl").unlink()
    assert read_run(silent, arm="x").problem == "no step was logged"
    (silent / "result.json").write_bytes(b"\xff{")
    damaged = read_run(silent, arm="x")
    assert damaged.failed
    assert "cannot be read" in (damaged.problem or "")
    (silent / "config.toml").write_bytes(b"\xff\xfe")
    assert read_run(silent, arm="x").failed


def test_what_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="check the path"):
        collect([tmp_path / "absent"])
    with pytest.raises(ConfigError, match="there is no run in it"):
        collect([tmp_path])


def test_runs_that_plans_share_are_no_comparison_of_their_own(tmp_path: Path) -> None:
    """Ablations side by side whose runs lie in one folder beside them, tuning's among them."""
    ablation(tmp_path / "one", values={"fixed": BETTER}, seeds=(100, 101))
    (tmp_path / "one" / "runs").rename(tmp_path / "runs")
    (tmp_path / "one" / "runs").symlink_to(Path("..") / "runs")
    run_folder(tmp_path / "runs" / "abc", seed=0)
    assert [c.title == "one" for c in collect([tmp_path])] == [True, False], "abc is loose"
    plan = json.loads((tmp_path / "one" / "ablation.json").read_text())
    plan["tuning"] = {"runs": [{"hash": "abc", "folder": "runs/abc"}]}
    (tmp_path / "one" / "ablation.json").write_text(json.dumps(plan))
    assert [c.title for c in collect([tmp_path])] == ["one"]
