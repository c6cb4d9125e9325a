"""Any metric may be unavailable anywhere it is shown: absent, null, not finite, or no number."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import HISTORY
from tests.report.folders import BETTER, FIGURES, ablation, arm_folders, log, run_folder
from topk_ortho.inspect.evaluate.text import GROUPS, metrics_text
from topk_ortho.report import canvas, comparison_table, plots, stability
from topk_ortho.report.canvas import Chart, Drawing
from topk_ortho.report.collect import collect
from topk_ortho.report.compare import compare
from topk_ortho.report.drawings import Sketch
from topk_ortho.report.markdown import comparison_markdown
from topk_ortho.report.page import render, sections
from topk_ortho.report.tables import comparison_rows, health_table, persistent, what_was_run

ABSENT = object()
INSTEAD = [ABSENT, None, float("nan"), float("inf"), "text", [], {}, True, 10**400]
each_instead = pytest.mark.parametrize("instead", INSTEAD, ids=lambda v: repr(v)[:8])
unavailable = pytest.mark.fault("metric that is unavailable")


def changed(value: dict[str, Any], key: str, instead: Any) -> dict[str, Any]:
    """A copy with something else, or nothing, in the place of one key."""
    rest = {name: v for name, v in value.items() if name != key}
    return rest if instead is ABSENT else rest | {key: instead}


def everywhere(value: Any, instead: Any) -> Iterator[Any]:
    """A copy for each place in nested lists and objects, with something else in that place."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield changed(value, key, instead)
            for other in everywhere(inner, instead):
                yield value | {key: other}
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            for other in everywhere(inner, instead):
                yield [*value[:n], other, *value[n + 1 :]]


def torn(instead: Any) -> list[dict[str, Any]]:
    """Lines of a log of which each has something else in the place of one key."""
    return [changed(line, key, instead) for line in log() for key in line if key != "step"]


def said(folder: Path) -> str:
    """Every text of the comparisons in a folder."""
    parts = []
    for comparison in collect([folder]):
        rows = compare(comparison)
        parts += [comparison_markdown(comparison), str(comparison_rows(rows))]
        parts += [str(health_table(comparison)), str(what_was_run(comparison))]
    return "\n".join(parts)


def painted_alone(chart: Chart) -> Drawing:
    """A chart that is painted and not written, which takes most of the time."""
    chart.put(canvas._figure((4, 3), dpi=50).add_subplot())
    return Drawing(chart.words.name, chart.words.title, chart.words.description, "<svg/>", b"")


@unavailable
@each_instead
def test_a_result_in_the_texts(instead: Any, tmp_path: Path) -> None:
    arm_folders(tmp_path, "none", seeds=(100, 101))
    arm_folders(tmp_path, "coactivation", BETTER, seeds=(100, 101))
    results = {path: json.loads(path.read_text()) for path in tmp_path.rglob("result.json")}
    for key in ("seed", "criterion", *FIGURES):
        for path, result in results.items():
            path.write_text(json.dumps(changed(result, key, instead)))
        text = said(tmp_path)
        assert not re.search(r"[+−( ](nan|inf)\b", text), (key, text)


@unavailable
@each_instead
def test_a_result_and_a_log_on_the_page(
    instead: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each seed of both arms lacks another metric, and each line of the log another key."""
    monkeypatch.setattr(Chart, "draw", painted_alone)
    keys = list(FIGURES)
    for arm in ("none", "coactivation"):
        for n, key in enumerate(keys):
            lines = [
                changed(line, name, instead) for line in log() for name in line if name != "step"
            ]
            run_folder(tmp_path / arm / f"seed-{n}", seed=n, criterion=arm, lines=lines,
                       figures=changed(FIGURES | BETTER, key, instead))  # fmt: skip
    comparisons = collect([tmp_path])
    html = render(sections(comparisons, history=lambda folder: HISTORY), title="x")
    assert ">nan<" not in html and ">inf<" not in html


@unavailable
@each_instead
def test_a_plan(instead: Any, tmp_path: Path) -> None:
    folder = ablation(tmp_path, values={"fixed": BETTER}, seeds=(100, 101))
    plan = json.loads((folder / "ablation.json").read_text())
    tries = [{"coefficient": 1.0, "excess": 0.1, "explained_variance": 0.89, "allowed": True}]
    plan["tuning"] = {
        "seeds": [0, 1],
        "runs": [{"hash": "a", "folder": "runs/a"}],
        "chosen": [{"label": "default", "coefficient": 1.0, "tried": tries,
                    "explained_variance_none": 0.9}],
    }  # fmt: skip
    for other in everywhere(plan, instead):
        (folder / "ablation.json").write_text(json.dumps(other))
        assert "No run" in said(folder) or "Means over seeds" in said(folder)


@unavailable
@pytest.mark.parametrize("instead", [ABSENT, None], ids=["absent", "null"])
def test_a_history_on_the_page(instead: Any, tmp_path: Path) -> None:
    """This package alone writes and reads it: it is whole, or parts of it are absent."""
    run_folder(tmp_path / "run", lines=log()[-1:])
    (comparison,) = collect([tmp_path])
    sketch = Sketch.of(comparison, [], prefix="")
    for key in HISTORY:
        histories = {comparison.arms[0].name: [changed(HISTORY, key, instead)]}
        persistent(histories)
        for chart in stability.drawings(sketch, histories):
            painted_alone(chart)


@unavailable
@each_instead
def test_the_sheets_of_a_run(instead: Any, tmp_path: Path) -> None:
    lines = torn(instead)
    for n, name in enumerate(("steps", "criterion")):
        result = changed(FIGURES | {"criterion": "random"}, name, instead)
        runs = plots.read_runs(run_folder(tmp_path / str(n), lines=lines, figures=result))
        for make in (plots.memory_sheet, plots.training_sheet, plots.final_sheet):
            make(runs)


@unavailable
@each_instead
def test_the_table_and_the_metrics_of_an_evaluation(instead: Any) -> None:
    names = [name for group in GROUPS.values() for name in group]
    whole: dict[str, Any] = dict.fromkeys(names, 0.95) | {"seconds": 1.0}
    histogram = {"log10_edges": [-1.0, -0.5, 0.0], "features": [1, 2], "never": 3}
    for key in whole:
        metrics = changed(whole, key, instead)
        metrics_text(metrics, histogram, {"group": metrics})
        comparison_table([("a", whole), ("b", metrics)])
        comparison_table([("b", metrics)], list(whole))
    for key in histogram:
        if instead is ABSENT or instead is None:
            metrics_text(whole, changed(histogram, key, instead))
