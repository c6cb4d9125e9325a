"""Markdown tables hold the figures of the folders, and say no more than they do."""

from __future__ import annotations

import json
from pathlib import Path

from tests.report.folders import BETTER, HOSTILE, ablation, arm_folders
from topk_ortho.report.collect import collect
from topk_ortho.report.markdown import comparison_markdown, means, table


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
    assert "- random-matched, seed 101: not run yet" in text
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


def test_nothing_finished(tmp_path: Path) -> None:
    folder = ablation(tmp_path, values={"fixed": {}}, seeds=(100, 101))
    for result in folder.rglob("result.json"):
        result.unlink()
    (comparison,) = collect([folder])
    assert means(comparison) == "No run has finished."


def test_bars_in_cells_are_escaped() -> None:
    assert table(["a|b"], [["c|d"]]).splitlines() == ["| a\\|b |", "| --- |", "| c\\|d |"]
