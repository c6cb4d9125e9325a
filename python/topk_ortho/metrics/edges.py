"""The report on features whose truth is known: edges, detectors, their averages, and counts.

Plain numbers, made by `GroundTruthMeter.result`. None stands for "not measurable" and is left out
of every average; how many were left out, and the tokens counted, stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MIN_CHILD_TOKENS = 20
"""Edges whose child is on for fewer tokens have no rates."""

FOUND_COSINE = 0.8
"""A parent counts as found when its match has a larger cosine."""

RATES = (
    "absorption_rate",
    "absorption_rate_fired",
    "base_miss",
    "excess",
    "partial",
    "decoder_leak",
    "encoder_hole",
)
"""The metrics of an edge that `GroundTruthResult.summary` averages."""

EDGE_COUNTS = {
    "absorption_rate": ("n_silent", "n_child"),
    "absorption_rate_fired": ("n_silent_fired", "n_child_fires"),
    "base_miss": ("n_silent_alone", "n_parent_alone"),
}
"""Numerator and denominator of an edge's rates."""

DETECTOR_COUNTS: dict[str, Callable[[Detector], tuple[int, int]]] = {
    "precision": lambda d: (d.n_hit, d.n_fires),
    "recall": lambda d: (d.n_hit, d.n_on),
    "f1": lambda d: (2 * d.n_hit, d.n_on + d.n_fires),
}
"""Numerator and denominator of a match as a detector."""


@dataclass(frozen=True)
class Edge:
    """One (parent, child) edge: indices of true features, their matches, counts and rates.

    "On" is said of a true feature, "fires" of its matched feature. None stands for a match that
    does not exist and for all that follows from it, for a rate over no token, and for every rate
    of an edge with fewer than `MIN_CHILD_TOKENS` child tokens, whose counts remain.

    Attributes:
        n_child: tokens with the child on.
        n_silent: of these, tokens on which the parent's feature is silent.
        n_child_fires: of these, tokens on which the child's feature fires.
        n_silent_fired: of these, tokens with both.
        n_parent_alone: tokens with the parent on and none of its children.
        n_silent_alone: of these, tokens on which the parent's feature is silent.
        decoder_leak: cosine of the child's decoder row with the parent's direction.
        encoder_hole: cosine of the parent's encoder column with the child's direction.
    """

    parent: int
    child: int
    parent_feature: int | None
    child_feature: int | None
    parent_cosine: float | None
    child_cosine: float | None
    n_child: int
    n_silent: int | None
    n_child_fires: int | None
    n_silent_fired: int | None
    n_parent_alone: int
    n_silent_alone: int | None
    absorption_rate: float | None
    absorption_rate_fired: float | None
    base_miss: float | None
    excess: float | None
    partial: float | None
    decoder_leak: float | None
    encoder_hole: float | None

    @property
    def eligible(self) -> bool:
        """Returns whether the edge enters the averages."""
        return self.n_child >= MIN_CHILD_TOKENS

    @property
    def found(self) -> bool:
        """Returns whether the parent's match is good enough to speak of absorption."""
        return self.parent_cosine is not None and self.parent_cosine > FOUND_COSINE


@dataclass(frozen=True)
class Detector:
    """A true feature and its match, as a detector of it.

    Attributes:
        parent: the true feature's parent, None for none.
        feature: its match; `cosine` theirs. None without a match.
        n_on: tokens with the true feature on.
        n_fires: tokens on which the match fires, 0 without one.
        n_hit: tokens with both.
        precision: also `recall` and `f1`: None without a match or where the true feature is never
            on; precision also where the match never fires.
    """

    parent: int | None
    feature: int | None
    cosine: float | None
    n_on: int
    n_fires: int
    n_hit: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class GroundTruthResult:
    """Everything measured against the truth.

    Attributes:
        rows: tokens seen.
        edges: one entry per (parent, child), in the order of the children.
        detectors: one entry per true feature.
        uniqueness: distinct true features that are the nearest of some feature, per feature.
    """

    rows: int
    edges: tuple[Edge, ...]
    detectors: tuple[Detector, ...]
    uniqueness: float | None

    def table(self) -> dict[str, Any]:
        """Returns every edge and every true feature with its counts, ready for JSON."""
        return {
            "rows": self.rows,
            "min_child_tokens": MIN_CHILD_TOKENS,
            "edges": [{**asdict(edge), "eligible": edge.eligible} for edge in self.edges],
            "features": [asdict(detector) for detector in self.detectors],
        }

    def summary(self) -> dict[str, float | int | None]:
        """Returns flat metrics: `RATES` as macro averages over the eligible edges,
        `absorption_rate_found` over those whose parent is found, `parents_found`, `mcc`,
        `uniqueness`, `edges_eligible`, `edges_total`, and `precision`, `recall`, `f1` with
        `_parent` (features that have children), `_child` (that have a parent), `_independent`
        (neither)."""
        eligible = [edge for edge in self.edges if edge.eligible]
        metrics: dict[str, float | int | None] = {
            name: mean(getattr(edge, name) for edge in eligible) for name in RATES
        }
        metrics["absorption_rate_found"] = mean(e.absorption_rate for e in eligible if e.found)
        metrics["parents_found"] = mean(float(found) for found in self._found())
        metrics["mcc"] = mean(d.cosine for d in self.detectors)
        metrics["uniqueness"] = self.uniqueness
        for group, members in self._groups().items():
            for name in DETECTOR_COUNTS:
                metrics[f"{name}_{group}"] = mean(getattr(d, name) for d in members)
        return metrics | {"edges_eligible": len(eligible), "edges_total": len(self.edges)}

    def counts(self) -> dict[str, dict[str, int]]:
        """Returns the counts that each metric of `summary` rests on.

        `used` and `left_out` are edges (features for `mcc` and the detectors): an average is over
        those used, the others have too few tokens or no match. For rates, `numerator` and
        `denominator` are tokens added up over those used (parents for `parents_found`); their
        quotient weighs edges by their tokens, the metric itself weighs them alike.
        """
        out = {}
        for name in RATES:
            used = [edge for edge in self.edges if edge.eligible and _has(edge, name)]
            out[name] = _support(used, len(self.edges)) | _edge_tokens(used, name)
        found = [e for e in self.edges if e.eligible and e.found and _has(e, "absorption_rate")]
        out["absorption_rate_found"] = _support(found, len(self.edges))
        out["absorption_rate_found"] |= _edge_tokens(found, "absorption_rate")
        every = self._found()
        out["parents_found"] = {"numerator": sum(every), "denominator": len(every)}
        out["mcc"] = _support([d for d in self.detectors if _has(d, "cosine")], len(self.detectors))
        for group, members in self._groups().items():
            for name, counts in DETECTOR_COUNTS.items():
                measured = [d for d in members if _has(d, name)]
                out[f"{name}_{group}"] = _support(measured, len(members))
                out[f"{name}_{group}"] |= _quotient(map(counts, measured))
        return out

    def _parents(self) -> list[int]:
        return sorted({d.parent for d in self.detectors if d.parent is not None})

    def _found(self) -> list[bool]:
        return [(self.detectors[p].cosine or 0.0) > FOUND_COSINE for p in self._parents()]

    def _groups(self) -> dict[str, list[Detector]]:
        parents = self._parents()
        has_children = set(parents)
        return {
            "parent": [self.detectors[p] for p in parents],
            "child": [d for d in self.detectors if d.parent is not None],
            "independent": [
                d
                for t, d in enumerate(self.detectors)
                if d.parent is None and t not in has_children
            ],
        }


def _has(owner: Edge | Detector, name: str) -> bool:
    return getattr(owner, name) is not None


def _support(used: Sequence[Edge | Detector], total: int) -> dict[str, int]:
    return {"used": len(used), "left_out": total - len(used)}


def _edge_tokens(edges: Sequence[Edge], name: str) -> dict[str, int]:
    if name not in EDGE_COUNTS:
        return {}
    above, below = EDGE_COUNTS[name]
    return _quotient((getattr(edge, above), getattr(edge, below)) for edge in edges)


def _quotient(counts: Iterable[tuple[int, int]]) -> dict[str, int]:
    pairs = list(counts)
    return {"numerator": sum(a for a, _ in pairs), "denominator": sum(b for _, b in pairs)}


def mean(values: Iterable[float | None]) -> float | None:
    """Returns the mean of what is available, None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
