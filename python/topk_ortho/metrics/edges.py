"""What is reported of features whose truth is known: edges, detectors, and their averages.

Plain numbers, made by `GroundTruthMeter.result`. None stands for "not measurable" and is left out
of every average.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MIN_CHILD_TOKENS = 20
"""Edges whose child is on for fewer tokens are left out of the averages."""

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
"""The figures of an edge that `GroundTruthResult.summary` averages."""


@dataclass(frozen=True)
class Edge:
    """One (parent, child) edge: indices of true features, their matches, counts and rates.

    "On" is said of a true feature, "fires" of its matched feature. None stands for a match that
    does not exist and for all that follows from it, and for a rate over no token.

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
        """Whether the edge enters the averages."""
        return self.n_child >= MIN_CHILD_TOKENS

    @property
    def found(self) -> bool:
        """Whether the parent's match is good enough to speak of absorption."""
        return self.parent_cosine is not None and self.parent_cosine > FOUND_COSINE


@dataclass(frozen=True)
class GroundTruthResult:
    """Everything measured against the truth.

    Attributes:
        rows: tokens seen.
        edges: one entry per (parent, child), in the order of the children.
        parent: `[n_true]`, each true feature's parent, -1 for none.
        cosine: `[n_true]`, the cosine of each one's match, None without a match.
        precision: `[n_true]`, of the match as a detector of the true feature; `recall` and `f1`
            alike. None without a match or where the true feature is never on; precision also
            where the match never fires.
        uniqueness: distinct true features that are the nearest of some feature, per feature.
    """

    rows: int
    edges: tuple[Edge, ...]
    parent: tuple[int, ...]
    cosine: tuple[float | None, ...]
    precision: tuple[float | None, ...]
    recall: tuple[float | None, ...]
    f1: tuple[float | None, ...]
    uniqueness: float | None

    def table(self) -> list[dict[str, Any]]:
        """The edges as JSON-ready rows."""
        return [{**asdict(edge), "eligible": edge.eligible} for edge in self.edges]

    def summary(self) -> dict[str, float | int | None]:
        """Flat figures: `RATES` as macro averages over the eligible edges, `absorption_rate_found`
        over those whose parent is found, `parents_found`, `mcc`, `uniqueness`, `edges_eligible`,
        `edges_total`, and `precision`, `recall`, `f1` with `_parent` (features that have
        children), `_child` (that have a parent), `_independent` (neither)."""
        eligible = [edge for edge in self.edges if edge.eligible]
        parents = sorted({p for p in self.parent if p >= 0})
        figures: dict[str, float | int | None] = {
            name: _mean(getattr(edge, name) for edge in eligible) for name in RATES
        }
        figures["absorption_rate_found"] = _mean(e.absorption_rate for e in eligible if e.found)
        figures["parents_found"] = _mean(
            float((self.cosine[p] or 0.0) > FOUND_COSINE) for p in parents
        )
        figures["mcc"] = _mean(self.cosine)
        figures["uniqueness"] = self.uniqueness
        figures |= self._groups(parents)
        return figures | {"edges_eligible": len(eligible), "edges_total": len(self.edges)}

    def _groups(self, parents: Sequence[int]) -> dict[str, float | None]:
        every, has_children = range(len(self.parent)), set(parents)
        groups = {
            "parent": parents,
            "child": [t for t in every if self.parent[t] >= 0],
            "independent": [t for t in every if self.parent[t] < 0 and t not in has_children],
        }
        return {
            f"{name}_{group}": _mean(getattr(self, name)[t] for t in members)
            for group, members in groups.items()
            for name in ("precision", "recall", "f1")
        }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
