"""The tables of the page, cell by cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from topk_ortho import statistics
from topk_ortho.report.arms import Arm, Comparison, base_settings, describe
from topk_ortho.report.compare import COSTS, Row, readable, unhealthy
from topk_ortho.report.reading import objects
from topk_ortho.report.typeset import (
    UNAVAILABLE,
    interval_percent,
    listed,
    number,
    percent,
    signed,
    signed_percent,
    with_interval,
)
from topk_ortho.report.words import LABELS
from topk_ortho.statistics import finite

TUNED_ON = tuple(range(10))
"""Seeds that the defaults were chosen on."""


@dataclass(frozen=True)
class Cell:
    """Text, what stands below it in small print, and `good`, `bad`, `muted` or `long`."""

    text: str
    under: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """The first cell of a row is its heading."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = field(default=())


NOT_THERE = Cell(UNAVAILABLE, tone="muted")


def what_was_run(comparison: Comparison) -> Table:
    """Data, dictionary, steps, arms, seeds."""
    settings = base_settings(comparison)
    seeds = sorted({run.seed for run in comparison.runs if run.seed is not None})
    steps, batch = finite(settings.get("steps")), finite(settings.get("batch_size"))
    facts = {
        "folder": str(comparison.source),
        "data": describe(settings),
        "dictionary": settings.get("sae.kind"),
        "training": f"{steps:,.0f} steps of {batch:,.0f}" if steps and batch else None,
        "arms": listed([arm.name for arm in comparison.arms]),
        "varied": _varied(comparison),
        "tuning": _tuning(comparison),
        "seeds": _seeds(seeds),
        "runs": _counts(comparison),
    }
    rows = [[Cell(name), Cell(str(value))] for name, value in facts.items() if value]
    return Table("What was run", (), rows, comparison.notes)


def _varied(comparison: Comparison) -> str:
    axes = comparison.plan.get("axes")
    if not isinstance(axes, dict):
        return ""
    return "; ".join(
        f"{name}: {listed([str(v) for v in values]) if isinstance(values, list) else values}"
        for name, values in axes.items()
    )


def _tuning(comparison: Comparison) -> str:
    tuning = comparison.plan.get("tuning")
    if not isinstance(tuning, dict):
        return ""
    tried, chosen = objects(tuning.get("runs")), objects(tuning.get("chosen"))
    if chosen and not any(objects(entry.get("tried")) for entry in chosen):
        return "on other seeds there was nothing to remove: coefficients are the arms' own"
    return f"{len(tried)} runs on other seeds chose the coefficients" if tried else ""


def _seeds(seeds: Sequence[int]) -> str:
    if not seeds:
        return ""
    tuned = [seed for seed in seeds if seed in TUNED_ON]
    shown = listed([str(seed) for seed in seeds])
    return (
        f"{shown} (the defaults were tuned on {listed([str(s) for s in tuned])})"
        if tuned
        else shown
    )


def _counts(comparison: Comparison) -> str:
    runs = comparison.runs
    failed = sum(run.failed for run in runs)
    ended = sum(bool(run.result) for run in runs)
    parts = [f"{ended} finished"]
    if failed:
        parts.append(f"{failed} failed")
    if len(runs) - ended - failed:
        parts.append(f"{len(runs) - ended - failed} not finished")
    return listed(parts)


def not_finished(comparison: Comparison) -> Table | None:
    """Runs without a result, with their reasons."""
    rows = [
        [
            Cell(arm.name),
            Cell("" if run.seed is None else str(run.seed)),
            Cell(run.problem, tone="bad" if run.failed else "muted"),
        ]
        for arm in comparison.arms
        for run in arm.runs
        if run.problem
    ]
    return Table("Without a result", ("arm", "seed", "why"), rows) if rows else None


def health_table(comparison: Comparison) -> Table | None:
    """Every arm's SAEs: mean, and below it the range over the seeds."""
    arms = [arm for arm in comparison.arms if arm.finished]
    if not arms:
        return None
    keys = [
        key
        for key in ("explained_variance", "ce_score", "dead_features", "l0")
        if key != "ce_score" or any(run.value(key) is not None for a in arms for run in a.finished)
    ]
    rows = [
        [
            Cell(arm.name, _count(arm)),
            _state(arm),
            *(_range(arm.values(key), LABELS[key].decimals or 0) for key in keys),
        ]
        for arm in arms
    ]
    header = ("arm", "state", *(LABELS[key].name for key in keys))
    return Table("Health of the SAEs: means over seeds, ranges below", header, rows)


def _count(arm: Arm) -> str:
    n = len(arm.finished)
    return f"{n} SAE{'s' if n > 1 else ''}"


def _state(arm: Arm) -> Cell:
    sick = unhealthy(arm)
    if not sick:
        return Cell("valid", tone="good")
    seeds = listed([str(seed) for seed in sick])
    which = "" if len(sick) == len(arm.finished) else f"seed {seeds}: "
    return Cell("invalid", f"{which}{next(iter(sick.values()))}", "bad")


def _range(values: Mapping[Any, float | None], decimals: int) -> Cell:
    known = [value for value in values.values() if value is not None]
    if not known:
        return NOT_THERE
    mean = number(sum(known) / len(known), decimals)
    if len(known) == 1:
        return Cell(mean)
    return Cell(mean, f"{number(min(known), decimals)} to {number(max(known), decimals)}")


def comparison_rows(rows: Sequence[Row]) -> Table | None:
    """The reduction in excess beside everything it may have cost."""
    shown = [row for row in rows if row.arm.finished]
    if not any(row.control for row in shown):
        return None
    levels = ("excess", "absorption_rate", *COSTS, "l0", "step_ms")
    header = ("arm", "reduction in excess", *(LABELS[key].name for key in levels))
    body = [
        [
            Cell(row.arm.name, _n(row)),
            _removed(row),
            _level(row.arm, "excess"),
            _level(row.arm, "absorption_rate"),
            *(_cost(row, key) for key in COSTS),
            _l0(row),
            _time(row),
        ]
        for row in shown
    ]
    return Table("Every arm beside the same seeds without the constraint", header, body)


def _n(row: Row) -> str:
    n = _count(row.arm) if row.excess is None else f"{row.excess.n} seeds, paired"
    coefficient = row.arm.finished[0].value("coefficient")
    return f"{n}; coefficient {coefficient:g}" if coefficient else n


def _removed(row: Row) -> Cell:
    if row.control is None:
        return Cell("–", tone="muted")
    if row.invalid:
        return Cell(UNAVAILABLE, f"invalid SAE: {row.invalid}", "bad")
    if row.excess is None:
        one = row.single.get("excess")
        return NOT_THERE if one is None else Cell(signed(-one), "one seed, no interval", "muted")
    low, high = -row.excess.high, -row.excess.low
    share = f"{percent(row.relative.mean)}, " if row.relative else ""
    p = row.adjusted_p
    sure = "" if p is None else f", p\N{NO-BREAK SPACE}{'below 0.001' if p < 0.001 else number(p)}"
    under = f"{share}[{signed(low)}, {signed(high)}]; {row.verdict}{sure}"
    tone = {"better": "good", "worse": "bad"}.get(row.verdict, "muted")
    return Cell(signed(-row.excess.mean), under, f"{tone} mid")


def _level(arm: Arm, key: str) -> Cell:
    mean = statistics.mean(readable(arm, key))
    return NOT_THERE if mean is None else Cell(number(mean.mean))


def _cost(row: Row, key: str) -> Cell:
    mean = statistics.mean(row.arm.values(key))
    if mean is None:
        return NOT_THERE
    difference = row.costs[key]
    if difference is None:
        one = row.single.get(key)
        under = "" if one is None or row.control is None else f"{signed(one)}, one seed"
        return Cell(number(mean.mean), under)
    under = with_interval(difference)
    if key == "explained_variance" and row.variance_kept == "holds":
        under += ", kept"
    tone = ("bad" if difference.mean < 0 else "good") if difference.detectable else ""
    return Cell(number(mean.mean), under, tone)


def _l0(row: Row) -> Cell:
    mean = statistics.mean(row.arm.values("l0"))
    if mean is None:
        return NOT_THERE
    unmatched = row.matched is False
    return Cell(number(mean.mean, 2), "unmatched, 3 % or more" if unmatched else "",
                "bad" if unmatched else "")  # fmt: skip


def _time(row: Row) -> Cell:
    mean = statistics.mean(row.arm.values("step_ms"))
    if mean is None:
        return NOT_THERE
    under = f"{signed_percent(row.time.mean)} {interval_percent(row.time)}" if row.time else ""
    if row.per_percent is not None:
        under += f"; absorption {signed(-row.per_percent, 4)} for each 1\N{NO-BREAK SPACE}% of it"
    if not under and row.control and (one := row.single.get("step_ms")) is not None:
        under = f"{signed_percent(one / (mean.mean - one))}, one seed" if mean.mean != one else ""
    return Cell(f"{number(mean.mean, 1)} ms", under)


def persistent(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table | None:
    """Hubs and the most persistent pairs of each arm's first seed."""
    rows = []
    for name, found in histories.items():
        hubs = ", ".join(f"{feature} ({degree})" for feature, degree in found[0].get("hubs") or [])
        top = found[0].get("top") or []
        pairs = ", ".join(f"{i}–{j} ({number(low, 2)})" for i, j, low, *_ in top)
        long = [Cell(text or UNAVAILABLE, tone="long") for text in (hubs, pairs)]
        rows.append([Cell(name), *long])
    header = ("arm", "hubs: feature (pairs)", "most persistent pairs (moving average)")
    return Table("Hubs and the most persistent pairs, first seed", header, rows) if rows else None
