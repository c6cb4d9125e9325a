"""Markdown tables hold the metrics of the folders, and say no more than they do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.report.folders import BETTER, HOSTILE, ablation, arm_folders
from topk_ortho.report.collect import collect
from topk_ortho.report.markdown import comparison_markdown, means, table
from topk_ortho.report.tables import what_was_run


def page(folder: Path) -> str:
    (comparison,) = collect([folder])
    return comparison_markdown(comparison)


def rows(text: str, first: str) -> dict[str, dict[str, str]]:
    """The table whose first heading is given, by its rows' names."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {first} |"))
    header = cells(lines[start])
    found = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, *values = cells(line)
        found[name] = dict(zip(header[1:], values, strict=True))
    return found


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_means_differences_and_the_default_arm_beside_the_others(tmp_path: Path) -> None:
    arm_folders(tmp_path, "none")
    arm_folders(tmp_path, "coactivation", BETTER)
    arm_folders(tmp_path, "random", {"mcc": 0.70, "excess": 0.13}, criterion="random")
    text = page(tmp_path)
    assert text.startswith("- With coactivation, excess absorption fell from 0.150 to 0.030")
    assert "Means over seeds 100, 101, 102:" in text
    assert rows(text, "arm")["random"]["MCC"] == "0.700"
    none = rows(text, "against none")
    assert set(none) == {"coactivation", "random"}
    assert none["coactivation"]["excess"] == "−0.120 [−0.121, −0.119]"
    assert none["coactivation"]["removed"] == "80\N{NO-BREAK SPACE}%"
    assert none["coactivation"]["EV"].endswith("kept")
    (beside,) = rows(text, "coactivation minus").values()
    assert beside["MCC"] == "+0.130 [+0.130, +0.130] (better)"
    assert beside["EV"] == "0.000 [0.000, 0.000]"


def test_what_failed_what_is_missing_and_what_was_left_out(tmp_path: Path) -> None:
    text = page(ablation(tmp_path, values={"fixed": BETTER, "mean-std": {}}, seeds=(100, 101)))
    assert "- rate-matched-random, seed 101: not run yet" in text
    assert "seed 100: failed: </script>" in text
    assert "\x00" not in text and "\u202e" not in text, "control characters are spelled out"
    assert HOSTILE not in text


def test_what_tuning_tried_with_the_one_taken_in_bold(tmp_path: Path) -> None:
    folder = ablation(tmp_path, values={"fixed": BETTER}, seeds=(100, 101))
    plan = json.loads((folder / "ablation.json").read_text())
    tries = [{"coefficient": c, "excess": e, "explained_variance": 0.89, "allowed": True}
             for c, e in ((1.0, 0.1), (3.0, None))]  # fmt: skip
    plan["tuning"] = {
        "seeds": [0, 1],
        "runs": [],
        "chosen": [{"label": "default", "coefficient": 1.0, "tried": tries,
                    "explained_variance_none": 0.9}],
    }  # fmt: skip
    (folder / "ablation.json").write_text(json.dumps(plan))
    text = page(folder)
    assert "tried on seeds 0 and 1" in text and "(none: 0.900)" in text
    assert "| default | **1: 0.100 / 0.890** | 3: unavailable / 0.890 |" in text


@pytest.mark.parametrize("tried", [0, 1, 2], ids=["none of two", "one of two", "both"])
def test_where_there_was_nothing_to_remove_the_page_says_whose_coefficients_they_are(
    tried: int, tmp_path: Path
) -> None:
    folder = ablation(tmp_path, values={"fixed": BETTER}, seeds=(100, 101))
    plan = json.loads((folder / "ablation.json").read_text())
    one = {"coefficient": 1.0, "excess": 0.1, "explained_variance": 0.89, "allowed": True}
    plan["tuning"] = {
        "seeds": [0, 1],
        "runs": [{"hash": name, "folder": f"runs/{name}"} for name in ("a", "b", "c")],
        "chosen": [{"label": label, "coefficient": 1.0, "tried": [one] * (n < tried),
                    "explained_variance_none": 0.9} for n, label in enumerate(("first", "second"))],
    }  # fmt: skip
    (folder / "ablation.json").write_text(json.dumps(plan))
    (comparison,) = collect([folder])
    facts = {name.text: value.text for name, value in what_was_run(comparison).rows}
    own = "On the tuning seeds there is no excess to remove: every arm keeps its own coefficient."
    text = comparison_markdown(comparison)
    if tried:
        assert facts["tuning"] == "3 runs on other seeds chose the coefficients"
        assert own not in text
        second = "**1: 0.100 / 0.890**" if tried == 2 else ""
        assert rows(text, "arm | try 1")["second"] == {"try 1": second}
    else:
        nothing = "on other seeds there was nothing to remove: coefficients are the arms' own"
        assert facts["tuning"] == nothing
        assert own in text and "Coefficients tried" not in text


def test_without_tuning_nothing_is_said_of_it(tmp_path: Path) -> None:
    (comparison,) = collect([ablation(tmp_path, values={"fixed": BETTER}, seeds=(100, 101))])
    assert "tuning" not in {name.text for name, _ in what_was_run(comparison).rows}
    assert "tuning" not in comparison_markdown(comparison)


def test_nothing_finished(tmp_path: Path) -> None:
    folder = ablation(tmp_path, values={"fixed": {}}, seeds=(100, 101))
    for result in folder.rglob("result.json"):
        result.unlink()
    (comparison,) = collect([folder])
    assert means(comparison) == "No run has finished."


def test_bars_in_cells_are_escaped() -> None:
    assert table(["a|b"], [["c|d"]]).splitlines() == ["| a\\|b |", "| --- |", "| c\\|d |"]
