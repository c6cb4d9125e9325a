"""An atlas for the terminal."""

from __future__ import annotations

from typing import Any

from topk_ortho.inspect.atlas.measure import Atlas
from topk_ortho.inspect.atlas.rules import Edge
from topk_ortho.report.typeset import metric
from topk_ortho.terminal import aligned, printable

SHOWN = 40
"""Edges in the table; all are in the JSON."""
CANDIDATES = (
    "experimental: edges are candidates with evidence to look at; what is not listed may still be "
    "absorbed (docs/atlas.md)"
)
_HEADER = (
    "parent", "child", "tier", "score", "z", "cosine", "y", "hole", "silent", "tokens", "there",
)  # fmt: skip


def as_text(found: Atlas) -> str:
    """The table of edges without a newline at its end."""
    sae, figures = found.sae, found.figures
    lines = [
        f"SAE   {printable(sae['path'])}: {sae['kind']}, {sae['d_sae']:,} features, "
        f"d_in {sae['d_in']}",
        f"data  {found.data}, {found.rows:,} rows; explained variance "
        f"{metric(figures['explained_variance'])}, L0 {metric(figures['l0'], '.1f')}",
        CANDIDATES,
        *(f"WARNING: {printable(text)}" for text in found.warnings),
        "",
    ]
    if found.edges:
        header = _HEADER if found.truth is None else (*_HEADER, "truth")
        rows = [_row(e) + _verdict(found, at) for at, e in enumerate(found.edges[:SHOWN])]
        lines += aligned([header, *rows], sides=">><>>>>>>>><")
    return "\n".join([*lines, *_counts(found), *_known(found.truth), *_spiked(found)])


def _row(edge: Edge) -> tuple[str, ...]:
    return (
        str(edge.parent), str(edge.child), edge.tier, f"{edge.score:.2f}", f"{edge.z:.1f}",
        f"{edge.cosine:+.2f}", f"{edge.y_ratio:.2f}", f"{edge.hole:.2f}",
        f"{edge.silent_share:.2f}", f"{edge.n_tokens:,}", f"{edge.n_flagged:,}",
    )  # fmt: skip


def _verdict(found: Atlas, at: int) -> tuple[str, ...]:
    return () if found.truth is None else (found.truth["edges"][at]["verdict"],)


def _counts(found: Atlas) -> list[str]:
    tiers = [edge.tier for edge in found.edges]
    more = len(tiers) - SHOWN
    columns = found.columns
    return [
        *([f"... and {more:,} more in the JSON"] if more > 0 else []),
        f"{len(tiers):,} edges: " + ", ".join(
            f"{tiers.count(name):,} {name}" for name in ("both", "variance", "strength")
        ),
        f"features: {columns['has_parent']:,} with a candidate parent, {columns['refused']:,} "
        f"whose best was refused, {columns['no_candidate']:,} that nothing overlaps, "
        f"{columns['fires_too_rarely']:,} that fire too rarely",
    ]  # fmt: skip


def _known(truth: dict[str, Any] | None) -> list[str]:
    return [] if truth is None else ["", *_tiers("known truth", truth["tiers"])]


def _spiked(found: Atlas) -> list[str]:
    spiked = found.spike_in
    if spiked is None:
        return []
    return [
        "",
        "these rules on hierarchies and confounds planted in this data, with an SAE of the same "
        f"kind trained on it for {spiked['steps']:,} steps (explained variance "
        f"{metric(spiked['explained_variance'])}, L0 {metric(spiked['l0'], '.1f')}):",
        *_tiers("planted", spiked["tiers"]),
        "`unknown` edges are between features of the data itself. What holds of planted features "
        "need not hold of others.",
    ]


def _tiers(name: str, tiers: dict[str, Any]) -> list[str]:
    rows = [(name, "found", "true edges", "absorbed", "unknown", "recall")]
    for word, tier in tiers.items():
        rows.append((
            word, str(tier["found"]), _share(tier["true_edges"], tier["precision_true"]),
            _share(tier["absorbed"], tier["precision_absorbed"]), str(tier["unknown"]),
            f"{metric(tier['recall'], '.2f')} of {tier['positives']}",
        ))  # fmt: skip
    return aligned(rows, sides="<>")


def _share(n: int, share: float | None) -> str:
    return f"{n} ({metric(share, '.2f')})"
