"""The three sentences say what the figures show, and no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.report.folders import BETTER, FIGURES, ablation, arm_folders, run_folder
from topk_ortho.report.collect import collect
from topk_ortho.report.compare import compare
from topk_ortho.report.findings import findings
from topk_ortho.report.tables import comparison_rows, health_table


def said(folder: Path) -> list[str]:
    (comparison,) = collect([folder])
    sentences = findings(comparison, compare(comparison))
    assert len(sentences) == 3
    assert all(sentence.endswith(".") and "nan" not in sentence for sentence in sentences)
    return sentences


def cells(folder: Path, arm: str) -> dict[str, tuple[str, str]]:
    (comparison,) = collect([folder])
    table = comparison_rows(compare(comparison))
    assert table is not None
    row = next(row for row in table.rows if row[0].text == arm)
    return {name: (c.text, c.under) for name, c in zip(table.header, row, strict=True)}


def test_a_reduction_beside_its_cost(tmp_path: Path) -> None:
    arm_folders(tmp_path, "none")
    arm_folders(tmp_path, "coactivation", BETTER)
    first, second, third = said(tmp_path)
    # excess .14, .15, .16 against .0195, .03, .0405: -.12 with standard deviation .0005
    assert first.startswith(
        "With coactivation, excess absorption fell from 0.150 to 0.030 (−0.120, 95 % interval "
        "[−0.121, −0.119], 3 seeds, 80\N{NO-BREAK SPACE}% less); with it came MCC +0.040"
    )
    assert "child F1 +0.050" in first
    assert "explained variance 0.000 (not detectable)" in first
    assert "step time +20\N{NO-BREAK SPACE}%" in first
    assert second == "There is a detectable reduction in excess for coactivation."
    assert third.endswith("here there is something to cure (excess without it 0.150 at L0 8.01).")
    row = cells(tmp_path, "coactivation")
    assert row["reduction in excess"][0] == "+0.120"
    assert row["reduction in excess"][1].startswith(
        "80\N{NO-BREAK SPACE}%, [+0.119, +0.121]; better"
    )
    assert row["explained variance"] == ("0.890", "0.000 [−0.001, +0.001], kept")
    assert cells(tmp_path, "none")["reduction in excess"] == ("–", "")


@pytest.mark.parametrize(
    ("share", "end"), [(0.43, "threshold."), (0.004, "nothing to push apart.")]
)
def test_what_the_pairs_reached_is_said_where_it_is_known(
    tmp_path: Path, share: float, end: str
) -> None:
    arm_folders(tmp_path, "none")
    reached = {"pairs_overlapping": share, "pairs_features": 1409, "living_features": 3900}
    arm_folders(tmp_path, "coactivation", BETTER | reached)
    (comparison,) = collect([tmp_path])
    *_, reach, last = findings(comparison, compare(comparison))
    assert reach.startswith("At the end the pairs of coactivation lay among 1,409 of 3,900 living")
    assert f"{share:.0%}".replace("%", "\N{NO-BREAK SPACE}% of them overlapped") in reach
    assert reach.endswith(end)
    assert "something to cure" in last


def test_one_seed_has_no_interval_and_says_so(tmp_path: Path) -> None:
    arm_folders(tmp_path, "none", seeds=(100,))
    arm_folders(tmp_path, "coactivation", BETTER, seeds=(100,))
    first, second, _ = said(tmp_path)
    assert "from 0.140 to 0.019 (−0.121; one seed has no interval)" in first
    assert "fell" not in first
    assert "unavailable" in second
    assert cells(tmp_path, "coactivation")["reduction in excess"][1] == "one seed, no interval"


def test_an_interval_that_covers_0_is_no_detectable_change(tmp_path: Path) -> None:
    for n, seed in enumerate((100, 101)):
        for arm, excess in (("none", 0.14), ("coactivation", 0.05 + 0.17 * n)):
            folder, figures = tmp_path / arm / f"seed-{seed}", FIGURES | {"excess": excess}
            run_folder(folder, seed=seed, figures=figures, criterion=arm)
    first, second, _ = said(tmp_path)
    assert "no detectable change" in first
    assert "less" not in first
    assert second == "There is no detectable change for coactivation."
    assert "no loss" not in first + second


def test_an_invalid_sae_has_no_absorption(tmp_path: Path) -> None:
    arm_folders(tmp_path, "none")
    arm_folders(tmp_path, "coactivation", BETTER | {"explained_variance": 0.3})
    first, second, _ = said(tmp_path)
    assert first.startswith("Absorption cannot be read for coactivation: an SAE is invalid")
    assert "unavailable" in second
    row = cells(tmp_path, "coactivation")
    assert row["reduction in excess"][0] == row["absorption"][0] == "unavailable"
    table = health_table(collect([tmp_path])[0])
    assert table is not None
    assert [row[1].text for row in table.rows] == ["valid", "invalid"]


def test_without_known_features_the_reduction_is_unavailable(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("absorption_rate", "excess", "mcc", "f1_child"))
    arm_folders(tmp_path, "none", nothing)
    arm_folders(tmp_path, "coactivation", nothing)
    first, second, third = said(tmp_path)
    assert "is unavailable" in first
    assert "explained variance" in first
    assert "unavailable" in second
    assert third.endswith("whether there is anything to cure here is unavailable.")
    row = cells(tmp_path, "coactivation")
    for name in ("reduction in excess", "excess", "absorption", "MCC", "child F1"):
        assert row[name][0] == "unavailable", name


def test_a_single_arm_is_compared_with_nothing(tmp_path: Path) -> None:
    run_folder(tmp_path / "run")
    first, *_ = said(tmp_path)
    assert first.startswith("Nothing is compared here")
    (comparison,) = collect([tmp_path])
    assert comparison_rows(compare(comparison)) is None


@pytest.mark.parametrize(
    ("excess", "ending"), [(0.005, "hardly anything to cure"), (0.3, "something to cure")]
)
def test_whether_there_is_anything_to_cure(tmp_path: Path, excess: float, ending: str) -> None:
    for seed in (100, 101):
        figures = FIGURES | {"excess": excess + 0.0001 * (seed - 100)}
        folder = tmp_path / "none" / f"seed-{seed}"
        run_folder(folder, seed=seed, criterion="none", figures=figures)
    assert ending in said(tmp_path)[2]


def test_an_l0_that_does_not_match_is_marked(tmp_path: Path) -> None:
    arm_folders(tmp_path, "none")
    arm_folders(tmp_path, "coactivation", BETTER | {"l0": 8.5})
    assert "L0 differs by 3 % or more" in said(tmp_path)[0]
    assert cells(tmp_path, "coactivation")["L0"] == ("8.51", "unmatched, 3 % or more")


def test_an_arm_that_was_picked_for_its_figures_says_so(tmp_path: Path) -> None:
    values = {"fixed": {"excess": 0.05}, "mean-std": {"excess": 0.1}}
    ablation(tmp_path, values=values, seeds=(100, 101))
    assert said(tmp_path)[0].startswith("With tau=fixed (picked for its low excess")


def test_what_only_seems_detectable_among_several_arms_is_not_said_to_fall(tmp_path: Path) -> None:
    arm_folders(tmp_path, "none")
    for n, seed in enumerate((100, 101, 102)):
        for arm, excess in (("coactivation", (0.04, 0.09, 0.1)[n]), ("random", 0.14 + 0.05 * n)):
            folder, figures = tmp_path / arm / f"seed-{seed}", FIGURES | {"excess": excess}
            run_folder(folder, seed=seed, criterion=arm, figures=figures)
    (comparison,) = collect([tmp_path])
    row = next(row for row in compare(comparison) if row.arm.name == "coactivation")
    # differences -.10, -.06, -.06: t = 5.5, p = .0315, doubled by Holm
    assert row.excess is not None
    assert row.excess.detectable
    assert row.adjusted_p == pytest.approx(0.063, abs=5e-4)
    first, second, _ = said(tmp_path)
    assert "excess absorption went from" in first
    assert "no detectable change once corrected for the number of arms" in first
    assert "no detectable change for coactivation and random" in second


def test_a_control_is_no_finding_where_something_was_varied(tmp_path: Path) -> None:
    values = {"fixed": {"excess": 0.1}, "mean-std": {"excess": 0.12}}
    folder = ablation(tmp_path, values=values, seeds=(100, 101))
    plan = json.loads((folder / "ablation.json").read_text())
    for n, seed in enumerate((100, 101)):
        entry = {"label": "ortsae", "arm": "ortsae", "axis": {}, "seed": seed, "hash": f"o{n}"}
        plan["runs"].append(entry | {"folder": f"runs/o{n}"})
        run_folder(folder / "runs" / f"o{n}", seed=seed, figures=FIGURES | BETTER)
    (folder / "ablation.json").write_text(json.dumps(plan))
    assert said(folder)[0].startswith("With tau=fixed (picked for its low excess")


def test_without_known_features_it_says_so_and_asks_for_no_more_seeds(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("excess", "absorption_rate", "base_miss"))
    arm_folders(tmp_path, "none", nothing)
    arm_folders(tmp_path, "coactivation", nothing)
    assert said(tmp_path)[1] == (
        "Whether excess changed is unavailable, since there are no known features here."
    )
