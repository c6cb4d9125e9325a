"""Tables at the end of an ablation: means, and differences to `none` paired by seed, by axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from topk_ortho.metrics.health import health
from topk_ortho.report.table import comparison_table
from topk_ortho.report.typeset import UNAVAILABLE, change, change_percent
from topk_ortho.report.words import NONE, short
from topk_ortho.statistics import (
    CONFIDENCE,
    MARGIN_EXPLAINED_VARIANCE,
    Difference,
    holm,
    l0_matched,
    mean,
    mean_of_all,
    non_inferior,
    paired,
    relative_change,
    verdict,
)
from topk_ortho.studies.grid import shown_value
from topk_ortho.studies.plan import VARIANT, Plan, Run, control
from topk_ortho.terminal import aligned, width

Metrics = Mapping[str, Any]
Result = Callable[[Run], "Metrics | None"]
COMPARED = ("excess", "mcc", "f1_child", "explained_variance", "ce_score")
"""Metrics whose differences are shown, where some run has them."""
COLUMNS = (
    "coefficient",
    "absorption_rate",
    "base_miss",
    *COMPARED,
    "f1_parent",
    "l0",
    "dead_features",
    "step_ms",
)


@dataclass(frozen=True)
class Row:
    """Metrics of one row by seed: those of a run, or means over the cells that share a value."""

    name: str
    by_seed: dict[int, Metrics]

    def values(self, key: str) -> dict[int, float | None]:
        """One metric by seed; None where it is not available."""
        return {seed: metrics.get(key) for seed, metrics in self.by_seed.items()}

    def means(self) -> dict[str, float]:
        """Means over the seeds that have the metric."""
        found = {key: mean(self.values(key)) for key in COLUMNS}
        return {key: m.mean for key, m in found.items() if m is not None}


def tables(plan: Plan, result: Result) -> str:
    """Returns the whole comparison in plain text, without a newline at its end."""
    rows = [_row(label, [runs], result) for label, runs in plan.subjects()]
    shown = [(row.name, row.means()) for row in rows if row.means()]
    if not shown:
        return "No run has finished."
    columns = [key for key in COLUMNS if any(key in metrics for _, metrics in shown)]
    blocks = [_seeds_line(plan) + "\n" + comparison_table(shown, columns)]
    blocks += _left_out(plan)
    baselines = [runs for _, runs in plan.subjects() if runs[0].arm not in (NONE, VARIANT)]
    pairs = [_beside(plan, [runs], runs[0].label, result) for runs in baselines]
    blocks += _block("baselines against none", pairs)
    if not plan.axes:
        own = [runs for _, runs in plan.subjects() if runs[0].arm == VARIANT]
        blocks += _block("against none", [_beside(plan, [r], r[0].label, result) for r in own])
    for axis in plan.axes:
        by_value = list(_by_value(plan, axis.option, axis.values, result))
        blocks += _block(f"{axis.option} against none", by_value)
        first = by_value[0][0]
        rest = [(row, first) for row, _ in by_value[1:]]
        blocks += _block(f"{axis.option} against {first.name}", rest)
    return "\n\n".join(blocks)


def _seeds_line(plan: Plan) -> str:
    return f"means over seeds {', '.join(map(str, plan.seeds))}"


def _left_out(plan: Plan) -> list[str]:
    return [f"left out: {', '.join(plan.left_out)}"] if plan.left_out else []


def _row(name: str, cells: Sequence[Sequence[Run]], result: Result) -> Row:
    """Means over cells, seed by seed; a seed that some cell lacks has none."""
    by_seed: dict[int, Metrics] = {}
    for seed in dict.fromkeys(run.seed for runs in cells for run in runs):
        metrics = [result(run) for runs in cells for run in runs if run.seed == seed]
        there = [f for f in metrics if f is not None]
        if len(there) == len(metrics):
            by_seed[seed] = {key: mean_of_all(f.get(key) for f in there) for key in COLUMNS}
    return Row(name, by_seed)


def _beside(
    plan: Plan, cells: Sequence[Sequence[Run]], name: str, result: Result
) -> tuple[Row, Row]:
    """A row and that of `none` in the same cells; an empty one where `none` was left out."""
    nones = dict(plan.subjects())
    labels = [control(runs[0].axis, plan.runs) for runs in cells]
    beside = [nones[label] for label in labels if label is not None]
    there = beside if len(beside) == len(cells) else []
    return _row(name, cells, result), _row(NONE, there, result)


def _by_value(
    plan: Plan, option: str, values: Sequence[Any], result: Result
) -> Iterator[tuple[Row, Row]]:
    variants = [runs for _, runs in plan.subjects() if runs[0].arm == VARIANT]
    for value in values:
        cells = [runs for runs in variants if runs[0].axis[option] == value]
        yield _beside(plan, cells, shown_value(value), result)


def _block(title: str, pairs: Sequence[tuple[Row, Row]]) -> list[str]:
    """Differences of rows to their controls; nothing where there is nothing to compare."""
    pairs = [(row, beside) for row, beside in pairs if row.by_seed and beside.by_seed]
    if not pairs:
        return []
    keys = [
        key
        for key in COMPARED
        if any(v is not None for row, _ in pairs for v in row.values(key).values())
    ]
    differences = [
        {key: paired(row.values(key), beside.values(key)) for key in keys} for row, beside in pairs
    ]
    adjusted = holm({str(n): _p(d.get("excess")) for n, d in enumerate(differences)})
    lines = [["", *(short(key) for key in keys), "step time", "excess is", "EV"]]
    for n, ((row, beside), found) in enumerate(zip(pairs, differences, strict=True)):
        time = relative_change(row.values("step_ms"), beside.values("step_ms"))
        lines.append([
            row.name,
            *(change(found[key]) for key in keys),
            change_percent(time),
            _verdict(row, beside, found.get("excess"), adjusted[str(n)]),
            _within(row, beside),
        ])  # fmt: skip
    note = (
        f"{title}: mean differences over paired seeds with {CONFIDENCE:.0%} intervals; EV: "
        "explained variance; what is said of excess is corrected for the table's "
        f"{len(pairs)} comparison{'s' if len(pairs) > 1 else ''} (Holm)"
    )
    return ["\n".join([note, *aligned(lines, sides="<", rule=False, within=width())])]


def _p(difference: Difference | None) -> float | None:
    return None if difference is None else difference.p


def _verdict(row: Row, beside: Row, excess: Difference | None, adjusted: float | None) -> str:
    for each in (row, beside):
        why = health(each.means())
        if why:
            return f"invalid: {each.name}, {why}"
    said: str = verdict(
        excess, better="lower", adjusted_p=adjusted, control=beside.values("excess")
    )
    matched = l0_matched(row.values("l0"), beside.values("l0"))
    return said if matched is not False else f"{said}; L0 not matched"


def _within(row: Row, beside: Row) -> str:
    key = "explained_variance"
    test = non_inferior(row.values(key), beside.values(key), margin=MARGIN_EXPLAINED_VARIANCE)
    return {
        "holds": f"loses < {test.margin:g}",
        "does not hold": f"may lose {test.margin:g}",
        "unavailable": UNAVAILABLE,
    }[test.verdict]
