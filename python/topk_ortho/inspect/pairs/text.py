"""Persistent pairs for the terminal; what came from a tokenizer is escaped."""

from __future__ import annotations

from topk_ortho import terminal
from topk_ortho.inspect.pairs.analysis import PairAnalysis, PersistentPair
from topk_ortho.inspect.pairs.contexts import Excerpt
from topk_ortho.inspect.pairs.truth import Identity
from topk_ortho.report.typeset import DASH, count, metric

MARKS = "⟦", "⟧"


def as_text(analysis: PairAnalysis) -> str:
    """The table of pairs, and below it where their features fire, without a newline at its end."""
    lines = [
        f"{analysis.run}: {analysis.criterion}, {analysis.steps} steps, "
        f"{analysis.observations} selections; {analysis.table} pairs remembered "
        f"(at most {analysis.capacity}), moving average with decay {analysis.decay:g}"
    ]
    if not analysis.pairs:
        return "\n".join([*lines, "no pair was ever chosen"])
    columns = None if any(f.identity for f in analysis.features) else -1  # true features or not
    rows = [_HEADER, *(_row(analysis, pair) for pair in analysis.pairs)]
    lines += [
        "",
        *terminal.aligned(
            [row[:columns] for row in rows], sides=">" * len(_HEADER[1:columns]) + "<"
        ),
    ]
    lines += ["", f"firing rates: from {analysis.rates_from}"]
    if analysis.missing is not None:
        lines.append(f"no held-out tokens: {printable(analysis.missing)}")
    lines += [
        "hits and streaks count from when a pair last entered the history",
        *_features(analysis),
        *_alone(analysis),
    ]
    return "\n".join(lines)


def printable(text: str) -> str:
    """Returns `text` with backslashes and all that does not print as escapes."""
    return terminal.printable(text.replace("\\", "\\\\"))


_HEADER = (
    "i", "j", "EMA", "hits", "streak", "longest", "cosine", "rate i", "rate j", "both",
    "rarer alone", "true features",
)  # fmt: skip


def _row(analysis: PairAnalysis, pair: PersistentPair) -> tuple[str, ...]:
    features = {report.feature: report for report in analysis.features}
    identities = [features[f].identity for f in (pair.i, pair.j)]
    named = [_named(identity) for identity in identities if identity is not None]
    return (
        str(pair.i),
        str(pair.j),
        _between(pair.ema_low, pair.ema_high),
        str(pair.hits),
        str(pair.streak),
        str(pair.longest_streak),
        metric(pair.cosine, "+.3f"),
        *(_rate(features[f].rate) for f in (pair.i, pair.j)),
        count(pair.n_both),
        _share(pair.n_rarer_alone, pair.n_rarer),
        f"{' / '.join(named)}: {pair.relation}" if named else DASH,
    )


def _between(low: float, high: float) -> str:
    return f"{low:.3f}" if high - low < 5e-4 else f"{low:.3f}-{high:.3f}"


def _rate(rate: float | None) -> str:
    return metric(rate, ".4f")


def _share(part: int | None, whole: int | None) -> str:
    return DASH if part is None or not whole else f"{part} of {whole}"


def _named(identity: Identity) -> str:
    true = identity.matched or identity.nearest
    of = "" if true.parent is None else f" of {true.parent}"
    near = "" if identity.matched else "near "
    return f"{near}{true.kind} {true.index}{of} ({true.cosine:.2f})"


def _features(analysis: PairAnalysis) -> list[str]:
    lines = []
    for report in analysis.features:
        if report.contexts:
            lines += ["", f"feature {report.feature} fires on {_rate(report.rate)} of the tokens"]
            lines += map(_excerpt, report.contexts)
    return lines


def _alone(analysis: PairAnalysis) -> list[str]:
    lines = []
    for pair in analysis.pairs:
        if pair.rarer_alone:
            other = pair.j if pair.rarer == pair.i else pair.i
            share = _share(pair.n_rarer_alone, pair.n_rarer)
            lines += ["", f"{pair.rarer} fires while {other} is silent ({share} tokens)"]
            lines += map(_excerpt, pair.rarer_alone)
    return lines


def _excerpt(excerpt: Excerpt) -> str:
    before, token, after = map(printable, (excerpt.before, excerpt.token, excerpt.after))
    return f"  {excerpt.activation:8.3f}  {before}{MARKS[0]}{token}{MARKS[1]}{after}"
