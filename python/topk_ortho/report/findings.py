"""The findings in a few plain sentences that claim no more than the metrics show."""

from __future__ import annotations

from collections.abc import Sequence

from topk_ortho import statistics
from topk_ortho.report.arms import Comparison
from topk_ortho.report.compare import Row, readable, unhealthy
from topk_ortho.report.typeset import (
    interval,
    listed,
    number,
    percent,
    signed,
    signed_percent,
)
from topk_ortho.report.words import DEFAULT_ARMS, LABELS, VARIANT

HARDLY_ANY_EXCESS = 0.02
"""Below this much excess in `none` there is nothing to cure; at L0 12 of the planted data, where
the constraint has next to nothing to remove, it is about .01 (docs/method.md 7)."""

IDLE = 0.01
"""Share of the pairs that overlap, below which the constraint does next to nothing."""

_REACH = ("pairs_overlapping", "pairs_features", "living_features")
_COSTS = ("mcc", "f1_child", "explained_variance")


def findings(comparison: Comparison, rows: Sequence[Row]) -> list[str]:
    """Reduction beside its cost; whether anything was detectable; what the pairs reached, where
    it is known; when not to use it."""
    row, picked = _subject(rows)
    said = [_reduction(row, picked=picked), _detectable(rows)]
    return [*said, *_reach(row), _when_not(comparison, row)]


def _subject(rows: Sequence[Row]) -> tuple[Row | None, bool]:
    """The arm that is spoken of, and whether it was picked for its metrics."""
    compared = [row for row in rows if row.control is not None and row.arm.finished]
    default = [row for row in compared if row.arm.name in DEFAULT_ARMS]
    constrained = [row for row in compared if row.arm.runs[0].constrained]
    varied = [row for row in constrained if row.arm.runs[0].arm == VARIANT]
    constrained = varied or constrained  # a control is no finding
    if default or len(constrained) == 1:
        return (default or constrained)[0], False
    known = [row for row in constrained if row.excess is not None]
    if known:
        return min(known, key=lambda row: row.excess.mean if row.excess else 0.0), True
    return (constrained[0], False) if constrained else (None, False)


def _reach(row: Row | None) -> list[str]:
    """What the pairs of the arm reached at the end, as a mean over its runs."""
    runs = [] if row is None else row.arm.finished
    known = [tuple(statistics.finite(run.result.get(key)) for key in _REACH) for run in runs]
    there = [(share, of, living) for share, of, living in known
             if share is not None and of is not None and living]  # fmt: skip
    if row is None or not there:
        return []
    share, of, living = (sum(column) / len(there) for column in zip(*there, strict=True))
    return [
        f"At the end the pairs of {row.arm.name} lay among {of:,.0f} of {living:,.0f} living "
        f"features, and {percent(share)} of them overlapped by more than their threshold"
        + ("; there was next to nothing to push apart." if share < IDLE else ".")
    ]


def _reduction(row: Row | None, *, picked: bool) -> str:
    if row is None or row.control is None:
        return "Nothing is compared here: that takes a finished run with the constraint and one " \
               "without it on the same seed."  # fmt: skip
    if row.invalid:
        return (
            f"Absorption cannot be read for {row.arm.name}: an SAE is invalid, {row.invalid}. "
            f"{_capital(_costs(row))}."
        )
    before, after = (statistics.mean(readable(a, "excess")) for a in (row.control, row.arm))
    if before is None or after is None:
        return (
            f"The reduction in excess absorption by {row.arm.name} is unavailable, since these "
            f"runs have no known features to measure it on. {_capital(_costs(row))}."
        )
    sure = row.verdict in ("better", "worse")
    verb = "fell" if sure and after.mean < before.mean else "went"
    chosen = " (picked for its low excess, so that its interval is too narrow)" if picked else ""
    moved = (
        f"With {row.arm.name}{chosen}, excess absorption {verb} from {number(before.mean)} to "
        f"{number(after.mean)}"
    )
    if row.excess is None:
        by = f" ({signed(after.mean - before.mean)}; one seed has no interval)"
    else:
        share = f", {_share(row)}" if row.relative else ""
        by = (
            f" ({signed(row.excess.mean)}, 95 % interval {interval(row.excess)}, "
            f"{row.excess.n} seeds{share if sure else _unsure(row.excess)})"
        )
    unmatched = ", but L0 differs by 3 % or more, which by itself moves absorption" \
        if row.matched is False else ""  # fmt: skip
    return f"{moved}{by}; {_costs(row)}{unmatched}."


def _unsure(excess: statistics.Difference) -> str:
    corrected = " once corrected for the number of arms" if excess.detectable else ""
    return f", no detectable change{corrected}"


def _share(row: Row) -> str:
    assert row.relative is not None
    less = row.relative.mean
    return f"{percent(less)} less" if less >= 0 else f"{percent(-less)} more"


def _costs(row: Row) -> str:
    """Returns what the arm cost besides its reduction."""
    parts = []
    for key in _COSTS:
        name, difference = LABELS[key].name, row.costs.get(key)
        value = difference.mean if difference else row.single.get(key)
        if value is not None:
            sure = difference is not None and not difference.detectable
            parts.append(f"{name} {signed(value)}{' (not detectable)' if sure else ''}")
    if row.time is not None:
        sure = row.time.detectable
        parts.append(
            f"step time {signed_percent(row.time.mean)}{'' if sure else ' (not detectable)'}"
        )
    return f"with it came {listed(parts)}" if parts else "what it cost is unavailable"


def _detectable(rows: Sequence[Row]) -> str:
    by_verdict: dict[str, list[str]] = {}
    for row in rows:
        if row.control is not None:
            by_verdict.setdefault(row.verdict, []).append(row.arm.name)
    better, worse = by_verdict.get("better", []), by_verdict.get("worse", [])
    same = by_verdict.get("no detectable change", [])
    none_left = by_verdict.get("nothing to remove", [])
    excess = [value for row in rows for value in row.arm.values("excess").values()]
    if excess and all(value is None for value in excess):
        return "Whether excess changed is unavailable, since there are no known features here."
    if not better + worse + same + none_left:
        return "Whether any change is detectable is unavailable: an interval takes at least two " \
               "seeds of both arms."  # fmt: skip
    parts = []
    if better:
        parts.append(f"a detectable reduction in excess for {listed(better)}")
    if worse:
        parts.append(f"a detectable increase for {listed(worse)}")
    if same:
        parts.append(f"no detectable change for {listed(same)}")
    if none_left:
        parts.append(f"nothing to remove for {listed(none_left)}, since the excess is not above 0")
    several = len(better + worse + same + none_left) > 1
    how = " (paired by seed, corrected for several comparisons after Holm)" if several else ""
    return f"There is {listed(parts)}{how}."


def _when_not(comparison: Comparison, row: Row | None) -> str:
    rule = (
        "Do not use the constraint where L0 is generous, since there is nothing to cure, nor where "
        "true directions overlap, since it erases overlap that is real"
    )
    control = row.control if row else next((a for a in comparison.arms if a.plain), None)
    excess = statistics.mean(readable(control, "excess")) if control else None
    if control is None or excess is None or unhealthy(control):
        return f"{rule}; whether there is anything to cure here is unavailable."
    l0 = statistics.mean(control.values("l0"))
    here = f"excess without it {number(excess.mean)}" + (
        f" at L0 {number(l0.mean, 2)}" if l0 else ""
    )
    if excess.mean < HARDLY_ANY_EXCESS:
        return f"{rule}; here there is hardly anything to cure ({here})."
    if excess.low is not None and excess.low <= 0:
        return f"{rule}; whether there is anything to cure here is not certain ({here}, with an " \
               "interval that covers 0)."  # fmt: skip
    if row is not None and row.verdict == "worse":
        return f"{rule}; nor here, where it made excess worse ({here})."
    return f"{rule}; here there is something to cure ({here})."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
