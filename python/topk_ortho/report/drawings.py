"""The drawings of a comparison, one function per section of the page; none without data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from topk_ortho import statistics
from topk_ortho.report import charts
from topk_ortho.report.arms import Arm, Comparison, differences
from topk_ortho.report.canvas import Chart, Words
from topk_ortho.report.charts import Bar, Look, Series
from topk_ortho.report.compare import Row, readable
from topk_ortho.report.reading import Run
from topk_ortho.report.typeset import number, signed, significant
from topk_ortho.report.words import CURVES, HELD_OUT, LABELS, OF_PAIRS

MEGABYTE = 1e6  # bytes
MOST_CURVES = 12
"""Curves of one drawing; arms beyond are left out of it and named in the text."""

_MOST_POINTS = 100  # of a curve
TAU = ("penalty.tau", "penalty.threshold")
FRACTION = ("pairs.fraction", "pairs.per_feature", "pairs.final_fraction")
_LOGGED = ("loss", "lr", "sparsity_penalty")
_FINAL = ("steps", *_LOGGED, "absorption_rate", "excess", "mcc", "f1_child", "explained_variance",
          "ce_score")  # fmt: skip


@dataclass(frozen=True)
class Sketch:
    """A comparison with how its arms look, ready to be drawn."""

    comparison: Comparison
    rows: Sequence[Row]
    looks: Mapping[str, Look]
    prefix: str

    @classmethod
    def of(cls, comparison: Comparison, rows: Sequence[Row], *, prefix: str) -> Sketch:
        names = [arm.name for arm in comparison.arms]
        plain = [arm.name for arm in comparison.arms if arm.plain]
        return cls(comparison, rows, charts.looks(names, plain=plain), prefix)

    def words(self, name: str, title: str, description: str, *, x: str = "", y: str = "") -> Words:
        file = re.sub(r"[^a-z0-9_]+", "_", f"{self.prefix}{name}".lower())
        return Words(file, title, f"{title}, {self.comparison.title}. {description}", x, y)

    def over_steps(self, arm: Arm, key: str, *, unit: float = 1.0) -> Series | None:
        """Means over the seeds that were trained longest, and what lies between them."""
        last = max((run.lines[-1]["step"] for run in arm.logged), default=0)
        by_step: dict[int, list[float]] = {}
        for run in arm.logged:
            if run.lines[-1]["step"] == last:
                for step, value in zip(*run.series(key), strict=True):
                    by_step.setdefault(step, []).append(value / unit)
        if not by_step:
            return None
        steps = _thinned(sorted(by_step))
        means = [sum(by_step[step]) / len(by_step[step]) for step in steps]
        several = max(map(len, by_step.values())) > 1
        spread = [(min(by_step[step]), max(by_step[step])) for step in steps] if several else []
        return Series(arm.name, self.looks[arm.name], steps, means, spread)

    def curves(self, arms: Sequence[Arm], key: str, *, unit: float = 1.0) -> list[Series]:
        found = [self.over_steps(arm, key, unit=unit) for arm in arms]
        return [series for series in found if series is not None][:MOST_CURVES]

    @property
    def constrained(self) -> list[Arm]:
        return [arm for arm in self.comparison.arms if any(run.constrained for run in arm.runs)]


def _thinned(steps: list[int]) -> list[int]:
    """Evenly many of them, the last one included: more cannot be told apart."""
    every = -(-len(steps) // _MOST_POINTS)
    return steps[::-1][::every][::-1]


def tradeoffs(sketch: Sketch, key: str) -> list[Chart]:
    """Absorption against another metric: every seed a faint dot, the mean with its interval."""
    series, name = [], LABELS[key].name
    for arm in sketch.comparison.arms:
        rates, others = readable(arm, "absorption_rate"), arm.values(key)
        both = [(others[seed], rate) for seed, rate in rates.items() if rate is not None]
        points = [(x, y) for x, y in both if x is not None]
        mean = statistics.mean(rates)
        if not points or mean is None:
            continue
        xs, ys = [x for x, _ in points], [y for _, y in points]
        spread = [] if mean.low is None or mean.high is None else [(mean.low, mean.high)]
        centre = [sum(xs) / len(xs)], [sum(ys) / len(ys)]
        series.append(Series(arm.name, sketch.looks[arm.name], *centre, spread, (xs, ys)))
    if not series:
        return []
    said = "; ".join(f"{s.name}: {number(s.y[0])} at {number(s.x[0], 3)}" for s in series)
    title = f"Absorption against {name}"
    words = sketch.words(f"absorption_{key}", title, said, x=name, y="absorption rate")
    return [charts.against(words, series)]


def effects(sketch: Sketch, arms: Sequence[Arm], keys: Sequence[str], name: str) -> list[Chart]:
    """Differences to `none`, paired by seed, with intervals."""
    wanted = {arm.name for arm in arms}
    drawn = []
    for key in keys:
        rows = [_effect(row, key, sketch) for row in sketch.rows if row.arm.name in wanted]
        known = [row for row in rows if row.value is not None]
        if known:
            said = "; ".join(f"{row.name}: {signed(row.value or 0.0)}" for row in known)
            words = sketch.words(f"{name}_{key}", LABELS[key].title, said, x="difference to none")
            drawn.append(charts.bars(words, rows, signs=True))
    return drawn


def _effect(row: Row, key: str, sketch: Sketch) -> Bar:
    look = sketch.looks[row.arm.name]
    difference = row.excess if key == "excess" else row.costs.get(key)
    if difference is None:
        return Bar(row.arm.name, look, row.single.get(key))
    return Bar(row.arm.name, look, difference.mean, difference.low, difference.high)


def families(sketch: Sketch, keys: Sequence[str]) -> list[list[Arm]]:
    """Arms that differ in `keys` alone, where there are at least two of them."""
    groups: dict[str, list[Arm]] = {}
    for arm in sketch.constrained:
        rest = {k: v for k, v in arm.settings.items() if k not in keys and k != "seed"}
        if rest:
            groups.setdefault(repr(sorted(rest.items())), []).append(arm)
    return [
        arms
        for arms in groups.values()
        if set(keys) & set(differences([arm.settings for arm in arms]))
    ]


def fractions(sketch: Sketch) -> list[Chart]:
    """Excess and explained variance against the share of all pairs that was selected."""
    found = families(sketch, FRACTION)
    drawn = []
    for key in ("excess", "explained_variance"):
        label = LABELS[key]
        series = [s for arms in found if (s := _by_fraction(sketch, arms, key)) is not None]
        if series:
            series += _levels(sketch, found, key, [x for s in series for x in s.x])
            said = "; ".join(
                f"{number(100 * x, 3)} %: {number(y)}"
                for s in series
                for x, y in zip(s.x, s.y, strict=True)
            )
            words = sketch.words(
                f"fraction_{key}", f"{label.title} by share of pairs", said,
                x="pairs selected, share of all pairs", y=label.name,
            )  # fmt: skip
            drawn.append(charts.against(words, series, log_x=True))
    return drawn


def _levels(
    sketch: Sketch, found: Sequence[Sequence[Arm]], key: str, xs: Sequence[float]
) -> list[Series]:
    """The control of each family as a line across."""
    controls = {c.name: c for arms in found if (c := sketch.comparison.control(arms[0]))}
    means = {name: statistics.mean(readable(arm, key)) for name, arm in controls.items()}
    return [
        Series(name, sketch.looks[name], [min(xs), max(xs)], [mean.mean] * 2, dashed=True)
        for name, mean in means.items()
        if mean is not None
    ]


def _by_fraction(sketch: Sketch, arms: Sequence[Arm], key: str) -> Series | None:
    points = []
    for arm in arms:
        share, mean = selected_share(arm.runs[0]), statistics.mean(readable(arm, key))
        if share and mean is not None:
            low, high = (mean.low, mean.high) if mean.low is not None else (mean.mean, mean.mean)
            points.append((share, mean.mean, (low, high if high is not None else mean.mean)))
    if len(points) < 2:
        return None
    x, y, spread = zip(*sorted(points), strict=True)
    return Series(arms[0].criterion, sketch.looks[arms[0].name], x, y, spread)


def selected_share(run: Run) -> float | None:
    """Pairs selected at the end as a share of all pairs."""
    taken, every = run.last("pairs"), run.pairs_in_all
    return taken / every if taken and every else None


def schedules(sketch: Sketch) -> list[Chart]:
    """The growth of the selection, and of the orthogonality loss with it."""
    if not any(
        arm.settings.get("pairs.schedule", "constant") != "constant" for arm in sketch.constrained
    ):
        return []
    drawn = []
    for key, title, y in (
        ("pairs", "Pairs selected", "pairs of a batch"),
        ("orthogonality", "Orthogonality as the selection grows", "without its coefficient"),
    ):
        series = sketch.curves(sketch.constrained, key)
        if series:
            said = "At the end: " + _ends(series)
            drawn.append(charts.curves(sketch.words(f"schedule_{key}", title, said, y=y), series))
    return drawn


def _ends(series: Sequence[Series], decimals: int = 3) -> str:
    return "; ".join(f"{s.name} {number(s.y[-1], decimals)}" for s in series)


def memory(sketch: Sketch) -> list[Chart]:
    """Allocated solid, reserved dashed."""
    arms = [arm for arm in sketch.comparison.arms if arm.logged]
    allocated = sketch.curves(arms, "memory_allocated", unit=MEGABYTE)
    reserved = sketch.curves(arms, "memory_reserved", unit=MEGABYTE)
    if not allocated:
        return []
    solid, dashed = memory_kinds(on_gpu=any(run.on_gpu for run in sketch.comparison.runs))
    second = [replace(series, name="", dashed=True) for series in reserved]
    said = f"{solid} solid, {dashed} dashed; at the end: {_ends(allocated, 0)} MB"
    words = sketch.words("memory_usage", "Memory", said, y="MB, solid and dashed")
    return [charts.curves(words, [*allocated, *second], from_zero=True)]


def memory_kinds(*, on_gpu: bool) -> tuple[str, str]:
    """Returns what `memory_allocated` and `memory_reserved` of a log are."""
    return ("allocated", "reserved") if on_gpu else ("resident", "peak resident")


def training(sketch: Sketch) -> list[Chart]:
    """The losses over the steps, and what the pairs reach."""
    drawn = []
    for key, (title, y) in CURVES.items():
        arms = sketch.constrained if key in OF_PAIRS else sketch.comparison.arms
        series = sketch.curves(arms, key)
        if series:
            words = sketch.words(f"training_{key}", title, f"At the end: {_ends(series)}", y=y)
            drawn.append(charts.curves(words, series))
    return drawn


def held_out(sketch: Sketch) -> list[Chart]:
    """Metrics on held-out activations over the steps, where they were measured on the way."""
    drawn = []
    for key in HELD_OUT:
        series = sketch.curves(sketch.comparison.arms, f"held_out.{key}")
        if series:
            said, title = f"At the end: {_ends(series)}", f"Held-out {LABELS[key].name}"
            words = sketch.words(f"held_out_{key}", title, said, y=LABELS[key].short)
            drawn.append(charts.curves(words, series))
    return drawn


def final(sketch: Sketch) -> list[Chart]:
    """Bars of the end of training, error bars over seeds."""
    drawn = []
    for key in _FINAL:
        rows = [_final_bar(sketch, arm, key) for arm in sketch.comparison.arms]
        if any(row.value is not None and (row.value or key != "sparsity_penalty") for row in rows):
            said = "; ".join(f"{row.name}: {significant(row.value)}" for row in rows)
            words = sketch.words(f"final_{key}", LABELS[key].title, said)
            drawn.append(charts.bars(words, rows, decimals=LABELS[key].decimals))
    return drawn


def _final_bar(sketch: Sketch, arm: Arm, key: str) -> Bar:
    if key in _LOGGED or key == "steps":
        values = {run.seed: run.last("step" if key == "steps" else key) for run in arm.logged}
    else:
        values = readable(arm, key)
    mean = statistics.mean(values)
    if mean is None:
        return Bar(arm.name, sketch.looks[arm.name], None)
    return Bar(arm.name, sketch.looks[arm.name], mean.mean, mean.low, mean.high)
