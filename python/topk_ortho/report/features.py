"""The features of a run on the page: a table to sort and filter, and two histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topk_ortho.config import ConfigError
from topk_ortho.report import charts
from topk_ortho.report.arms import Arm, Comparison
from topk_ortho.report.canvas import Chart
from topk_ortho.report.charts import Series
from topk_ortho.report.drawings import MOST_CURVES, Sketch
from topk_ortho.report.reading import read_json
from topk_ortho.report.typeset import number
from topk_ortho.report.words import DEFAULT_ARMS

FILE = "features.json"
ROWS = 1000
"""Features of a table; the page stays small enough for a phone."""
PER_DECADE = 4
"""Bins of the histogram of firing rates in a factor of ten."""


@dataclass(frozen=True)
class FeatureTable:
    """Features of one run, a row each; the first cell is the feature's number.

    Attributes:
        hint: what may be typed to filter it.
        note: what is not shown, empty where everything is.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    hint: str
    note: str = ""


def read_features(folder: Path) -> dict[str, Any] | None:
    """Returns the table of a run, None where it has none or a damaged one."""
    try:
        found = read_json(folder / FILE)
    except (ConfigError, OSError):
        return None
    fired, rows = found.get("fired"), found.get("rows")
    if not _whole(fired) or not isinstance(rows, int) or rows < 1:
        return None
    length = len(fired or ())
    for key in ("encoder_norm", "neighbour", "cosine", "true_feature", "true_cosine"):
        values = found.get(key)
        if values is not None and not (
            isinstance(values, list)
            and len(values) == length
            and all(v is None or isinstance(v, int | float) for v in values)
        ):
            return None
    return found


def _whole(values: Any) -> bool:
    """Returns whether it is a list of whole numbers, at least one."""
    return isinstance(values, list) and bool(values) and all(type(v) is int for v in values)


def tables(comparison: Comparison) -> list[FeatureTable]:
    """The features of the arm that is spoken of and of `none`, each of its first seed."""
    found = []
    for arm in _shown(comparison):
        for run in arm.finished:
            if (table := read_features(run.folder)) is not None:
                seed = "" if run.seed is None else f", seed {run.seed}"
                found.append(_table(f"Features of {arm.name}{seed}", table))
                break
    return found


def _shown(comparison: Comparison) -> list[Arm]:
    there = [arm for arm in comparison.arms if arm.finished]
    ours = [arm for arm in there if arm.name in DEFAULT_ARMS]
    ours = ours or [arm for arm in there if arm.runs[0].constrained]
    return [*ours[:1], *[arm for arm in there if arm.plain][:1]]


def _table(caption: str, table: dict[str, Any]) -> FeatureTable:
    fired, rows = table["fired"], table["rows"]
    columns: dict[str, list[str]] = {
        "feature": [str(n) for n in range(len(fired))],
        "firing rate": ["0, dead" if not n else f"{n / rows:.3g}" for n in fired],
    }
    if table.get("true_feature"):
        columns["true feature"] = [_shown_whole(v) for v in table["true_feature"]]
        columns["match"] = [_shown_number(v) for v in table.get("true_cosine") or []]
    columns["encoder norm"] = [_shown_number(v) for v in table.get("encoder_norm") or []]
    columns["neighbour"] = [_shown_whole(v) for v in table.get("neighbour") or []]
    columns["cosine"] = [_shown_number(v) for v in table.get("cosine") or []]
    columns = {name: cells for name, cells in columns.items() if len(cells) == len(fired)}
    order = sorted(range(len(fired)), key=lambda n: -fired[n])[:ROWS]
    note = ""
    if len(fired) > ROWS:
        note = f"The {ROWS:,} that fire most of {len(fired):,}; the run's {FILE} has all of them."
    body = [[cells[n] for cells in columns.values()] for n in order]
    return FeatureTable(caption, tuple(columns), body, "dead, or firing_rate>0.1", note)


def _shown_whole(value: Any) -> str:
    return "" if value is None else str(value)


def _shown_number(value: Any) -> str:
    return "" if value is None or not math.isfinite(value) else number(value)


def drawings(sketch: Sketch) -> list[Chart]:
    """Histograms of firing rates and of the cosines of decoder rows, of each arm's first seed."""
    found = {}
    for arm in sketch.comparison.arms[:MOST_CURVES]:
        tables_there = (read_features(run.folder) for run in arm.finished)
        if (table := next((t for t in tables_there if t is not None), None)) is not None:
            found[arm.name] = table
    return [*_rates(sketch, found), *_cosines(sketch, found)] if found else []


def _rates(sketch: Sketch, found: dict[str, dict[str, Any]]) -> list[Chart]:
    """Bins of equal ratio from the rarest rate that can be seen to 1; dead features are told."""
    lowest = min(math.floor(-math.log10(table["rows"])) for table in found.values())
    bins = -lowest * PER_DECADE
    if bins < 1:
        return []
    edges = [10 ** (lowest + n / PER_DECADE) for n in range(bins + 1)]
    series, said = [], []
    for name, table in found.items():
        counts, dead = [0.0] * bins, 0
        for fired in table["fired"]:
            if fired <= 0:
                dead += 1
                continue
            place = (math.log10(fired / table["rows"]) - lowest) * PER_DECADE
            counts[min(max(int(place), 0), bins - 1)] += 1
        series.append(Series(name, sketch.looks[name], [], counts))
        said.append(f"{name}: {dead} of {len(table['fired'])} dead")
    words = sketch.words(
        "features_rates", "Firing rates", "; ".join(said),
        x="share of activations a feature fires on", y="features",
    )  # fmt: skip
    return [charts.columns(words, edges, series, log_x=True)]


def _cosines(sketch: Sketch, found: dict[str, dict[str, Any]]) -> list[Chart]:
    series: list[Series] = []
    edges: list[float] = []
    said: list[str] = []
    for name, table in found.items():
        histogram = table.get("cosines")
        if not isinstance(histogram, dict):
            continue
        its_edges, pairs = histogram.get("edges"), histogram.get("pairs")
        if not (isinstance(its_edges, list) and isinstance(pairs, list) and _whole(pairs)):
            continue
        if len(its_edges) != len(pairs) + 1:
            continue
        if edges and its_edges != edges:
            continue
        edges = its_edges
        series.append(Series(name, sketch.looks[name], [], [float(n) for n in pairs]))
        above = sum(n for n, low in zip(pairs, edges, strict=False) if low >= 0.5)
        said.append(f"{name}: {above:,} pairs at 0.5 or more")
    if not series:
        return []
    words = sketch.words(
        "features_cosines", "Cosines of decoder rows", "; ".join(said), x="cosine", y="pairs"
    )
    return [charts.columns(words, edges, series, log_y=True)]
