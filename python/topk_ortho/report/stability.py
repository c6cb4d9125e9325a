"""The stability of the selection: drawings and a table of the pair history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from topk_ortho.report import charts
from topk_ortho.report.arms import Arm
from topk_ortho.report.canvas import Chart
from topk_ortho.report.charts import Series
from topk_ortho.report.drawings import MOST_CURVES, Sketch
from topk_ortho.report.typeset import number

Remembered = Mapping[str, Any]
"""A run's history as plain numbers, as its caller reads it: `observations`, `ema`
(counts in equal bins from 0 to 1), `survival` (lag: [kept, anchored]), `lifetimes` (`bins` and
`counts`), `hubs` ([feature, degree]) and `top` ([i, j, lower end, upper end, hits])."""

Reader = Callable[[Path], Remembered | None]


def remembered(arm: Arm, read: Reader) -> list[Remembered]:
    """The histories of an arm's runs, those without one left out."""
    found = [read(run.folder) for run in arm.runs if run.lines and run.constrained]
    return [each for each in found if each]


def drawings(sketch: Sketch, histories: Mapping[str, list[Remembered]]) -> list[Chart]:
    """Jaccard over steps, the histogram of averages, survival, and lifetimes."""
    return [
        *_jaccard(sketch),
        *_averages(sketch, histories),
        *_survival(sketch, histories),
        *_lifetimes(sketch, histories),
    ]


def _jaccard(sketch: Sketch) -> list[Chart]:
    series = sketch.curves(sketch.constrained, "jaccard")
    if not series:
        return []
    said = "; ".join(f"{s.name}: {number(s.y[-1])} at the end" for s in series)
    words = sketch.words(
        "stability_jaccard", "Overlap with the selection before", said, y="Jaccard index"
    )
    return [charts.curves(words, series, from_zero=True)]


def _averages(sketch: Sketch, histories: Mapping[str, list[Remembered]]) -> list[Chart]:
    series, edges = [], []
    for name, found in list(histories.items())[:MOST_CURVES]:
        averages = [h["ema"] for h in found if h.get("ema")]
        if not averages:
            continue
        counts = [sum(column) / len(averages) for column in zip(*averages, strict=True)]
        edges = [n / len(counts) for n in range(len(counts) + 1)]
        series.append(Series(name, sketch.looks[name], [], counts))
    if not series:
        return []
    said = "; ".join(
        f"{s.name}: {number(sum(s.y[len(s.y) // 2 :]), 0)} pairs above 0.5" for s in series
    )
    words = sketch.words(
        "stability_ema", "How often pairs were selected lately", said,
        x="moving average of “selected”", y="pairs remembered",
    )  # fmt: skip
    return [charts.columns(words, edges, series, log_y=True)]


def _survival(sketch: Sketch, histories: Mapping[str, list[Remembered]]) -> list[Chart]:
    series = []
    for name, found in list(histories.items())[:MOST_CURVES]:
        kept: dict[int, int] = {}
        anchored: dict[int, int] = {}
        for history in found:
            for lag, (still, all_) in (history.get("survival") or {}).items():
                kept[lag] = kept.get(lag, 0) + still
                anchored[lag] = anchored.get(lag, 0) + all_
        lags = sorted(lag for lag, all_ in anchored.items() if all_)
        if lags:
            shares = [kept[lag] / anchored[lag] for lag in lags]
            series.append(Series(name, sketch.looks[name], lags, shares))
    if not series:
        return []
    said = "; ".join(
        f"{s.name}: {number(s.y[0])} after {s.x[0]}, {number(s.y[-1])} after {s.x[-1]}"
        for s in series
    )
    words = sketch.words(
        "stability_survival", "Pairs that are still selected", said,
        x="selections later", y="share still selected",
    )  # fmt: skip
    return [charts.against(words, series, log_x=True)]


def _lifetimes(sketch: Sketch, histories: Mapping[str, list[Remembered]]) -> list[Chart]:
    series = []
    for name, found in list(histories.items())[:MOST_CURVES]:
        by_length: dict[int, int] = {}
        for history in found:
            lifetimes = history.get("lifetimes") or {}
            for least, count in zip(
                lifetimes.get("bins") or [], lifetimes.get("counts") or [], strict=False
            ):
                by_length[least] = by_length.get(least, 0) + count
        lengths = sorted(least for least, count in by_length.items() if count)
        total = sum(by_length.values())
        if total:
            shares = [by_length[least] / total for least in lengths]
            series.append(Series(name, sketch.looks[name], lengths, shares))
    if not series:
        return []
    said = "; ".join(f"{s.name}: {number(s.y[0])} ended after {s.x[0]}" for s in series)
    words = sketch.words(
        "stability_lifetimes", "How long a pair stays selected", said,
        x="selections in a row, from", y="share of the streaks that ended",
    )  # fmt: skip
    return [charts.against(words, series, log_x=True)]
