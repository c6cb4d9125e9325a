"""A standalone absorption meter: anyone's codes, anyone's parents and children.

Given are, by token, which classes are on (true features or labels), the codes of an SAE, edges
from parent to child classes, and a feature for each class (`matching.py`). Counted is how often the
parent's feature fires where the child is on, and where the parent is on without any of its
children; the arithmetic is that of the method's section on measuring (`edge_counts.py`), so with
the truth as labels the rates are those of `GroundTruthMeter`.

    matching = match_by_labels(acts, on)             # or match_by_cosine(W_dec, directions)
    meter = AbsorptionMeter([(0, 1), (0, 2)], matching)
    for acts, on in batches:
        meter.update(acts, on)
    print(meter.result().summary())

A metric means nothing for an SAE that hardly trained, which absorbs nothing because nothing fires:
show it beside explained variance, and as invalid where `topk_ortho.metrics.health` gives a reason.
A batch costs a few `[rows, n_classes]` masks; the codes may be dense or sparse, on any device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from topk_ortho.metrics.edge_counts import EdgeCounts, rows
from topk_ortho.metrics.edges import MIN_CHILD_TOKENS, mean
from topk_ortho.metrics.firing import columns, labels
from topk_ortho.metrics.matching import (
    LabelMatcher,
    Matching,
    match_by_cosine,
    match_by_labels,
)

__all__ = [
    "MIN_CHILD_TOKENS",
    "AbsorptionEdge",
    "AbsorptionMeter",
    "AbsorptionResult",
    "LabelMatcher",
    "Matching",
    "edges_of",
    "match_by_cosine",
    "match_by_labels",
    "measure",
]

FEW_EDGES = 5
"""With fewer edges a mean over them is said to rest on few."""
RATES = ("absorption_rate", "base_miss", "excess", "recall_with_child", "recall_without_child")
"""The metrics of an edge that `AbsorptionResult.summary` averages."""


@dataclass(frozen=True)
class AbsorptionEdge:
    """One edge from a parent class to a child class.

    None stands for what is not available: a feature, and all that follows from it; a cosine where
    no direction is known; a rate over no token, or of an edge that is not `eligible`, whose counts
    remain.

    Attributes:
        parent: index of the parent class; `child` of the child class.
        parent_feature: the parent's matched feature; `child_feature` the child's.
        parent_cosine: of that feature's decoder row with the parent's direction.
        parent_f1: of that feature as a detector of the parent, on the same tokens.
        n_with_child: tokens with the child on.
        n_without_child: tokens with the parent on and none of its children.
        fires_with_child: of the former, tokens on which the parent's feature fires.
        fires_without_child: the same of the latter.
        recall_with_child: `fires_with_child / n_with_child`; so is `recall_without_child`.
        absorption_rate: share of the tokens with the child on which the parent's feature is silent.
        base_miss: the same share of the tokens without a child.
        excess: `absorption_rate - base_miss`, which is the recall that the child costs its parent:
            above 0 the parent's feature is missing just where the child is on.
        eligible: measurable, and at least `MIN_CHILD_TOKENS` tokens with the child. What is of the
            tokens without a child needs as many of those too.
    """

    parent: int
    child: int
    parent_feature: int | None
    child_feature: int | None
    parent_cosine: float | None
    child_cosine: float | None
    parent_f1: float | None
    child_f1: float | None
    n_with_child: int
    n_without_child: int
    fires_with_child: int | None
    fires_without_child: int | None
    recall_with_child: float | None
    recall_without_child: float | None
    absorption_rate: float | None
    base_miss: float | None
    excess: float | None
    eligible: bool


@dataclass(frozen=True)
class AbsorptionResult:
    """The counts of the meter.

    Attributes:
        rows: tokens seen.
        matching: how features were matched: `cosine`, `f1`, `correlation` or `given`.
        edges: one entry per edge, in the order in which they were given.
    """

    rows: int
    matching: str
    edges: tuple[AbsorptionEdge, ...]

    def summary(self) -> dict[str, float | int | None]:
        """Returns `RATES` as macro averages over the eligible edges, None without any;
        `edges_eligible`, `edges_total`, and `edges_with_excess`: the eligible ones whose excess is
        available."""
        eligible = [edge for edge in self.edges if edge.eligible]
        means = {name: mean(getattr(edge, name) for edge in eligible) for name in RATES}
        return means | {
            "edges_with_excess": sum(edge.excess is not None for edge in eligible),
            "edges_eligible": len(eligible),
            "edges_total": len(self.edges),
        }

    def as_json(self) -> dict[str, Any]:
        """Returns plain lists, dicts, numbers and None."""
        return asdict(self) | {"min_child_tokens": MIN_CHILD_TOKENS, "summary": self.summary()}


class AbsorptionMeter:
    """Counts over any number of batches; `result` may be read at any time.

    Args:
        edges: `(parent, child)` class indices, or `[edges, 2]` int64; `edges_of` makes them of a
            vector of parents.
        matching: a feature for each class.
        measurable: for each edge, whether its classes are worth measuring; all unless given.

    Raises:
        ValueError: an edge to a class that does not exist, from a class to itself, or given twice.
    """

    def __init__(
        self,
        edges: Sequence[tuple[int, int]] | Tensor,
        matching: Matching,
        *,
        measurable: Sequence[bool] | None = None,
    ) -> None:
        self.n_classes = len(matching.feature)
        pairs = torch.as_tensor(edges, dtype=torch.int64).cpu().reshape(-1, 2)
        _check_edges([(p, c) for p, c in pairs.tolist()], self.n_classes)
        self._measurable = [True] * len(pairs) if measurable is None else list(measurable)
        if len(self._measurable) != len(pairs):
            raise ValueError(
                f"measurable has {len(self._measurable)} entries; expected one for each of the "
                f"{len(pairs)} edges"
            )
        self._matching = matching
        self._counts = EdgeCounts(pairs[:, 0], pairs[:, 1], matching.feature)

    def __repr__(self) -> str:
        counts = self._counts
        return f"AbsorptionMeter({len(counts.parent_of)} edges, {counts.rows:,} tokens)"

    def update(self, acts: Tensor, on: Tensor) -> None:
        """Take in one batch.

        Args:
            acts: `[rows, d_sae]`, codes or booleans, dense or sparse; a feature fires where it is
                above 0.
            on: `[rows, n_classes]`, which classes are on, likewise.

        Raises:
            ValueError: shapes that do not fit, a value that is not finite, or a child that is on
                where its parent is not.
        """
        if acts.shape[:1] != on.shape[:1] or on.shape[1:] != (self.n_classes,):
            raise ValueError(
                f"acts {tuple(acts.shape)} and on {tuple(on.shape)} do not fit; expected as many "
                f"rows, and {self.n_classes} columns in `on`, one for each matched class"
            )
        classes = labels(on).to(acts.device)
        p, c = (i.to(acts.device) for i in (self._counts.parent_of, self._counts.child_of))
        astray = (classes[:, c] & ~classes[:, p]).any(0).nonzero().flatten()
        if len(astray):
            edge = int(astray[0])
            raise ValueError(
                f"class {int(c[edge])} is on where its parent {int(p[edge])} is not; a parent has "
                "no recall there: switch it on wherever one of its children is"
            )
        self._counts.update(classes, columns(acts, self._matching.feature))

    def result(self) -> AbsorptionResult:
        """Returns the rates over all tokens so far."""
        p, c = self._counts.parent_of, self._counts.child_of
        f1 = self._counts.detectors()["f1"]
        matched = {
            "parent_cosine": self._matching.cosine[p],
            "child_cosine": self._matching.cosine[c],
            "parent_f1": f1[p],
            "child_f1": f1[c],
        }
        counted = rows(self._counts.edges() | matched)
        edges = (_edge(*both) for both in zip(counted, self._measurable, strict=True))
        return AbsorptionResult(self._counts.rows, self._matching.how, tuple(edges))


def measure(
    acts: Tensor,
    on: Tensor,
    edges: Sequence[tuple[int, int]] | Tensor,
    matching: Matching,
) -> AbsorptionResult:
    """Returns the result for one batch: `acts` `[rows, d_sae]`, `on` `[rows, n_classes]`."""
    meter = AbsorptionMeter(edges, matching)
    meter.update(acts, on)
    return meter.result()


def edges_of(parent: Tensor) -> list[tuple[int, int]]:
    """Returns `(parent, child)` of a vector of parents `[n_classes]`, -1 for none."""
    return [(p, child) for child, p in enumerate(parent.tolist()) if p >= 0]


def _check_edges(edges: Sequence[tuple[int, int]], n_classes: int) -> None:
    for parent, child in edges:
        if parent == child or not (0 <= parent < n_classes and 0 <= child < n_classes):
            raise ValueError(
                f"the edge ({parent}, {child}) was given, but two different classes from 0 to "
                f"{n_classes - 1} were expected, as many as the matching has"
            )
    for edge, times in Counter(edges).items():
        if times > 1:
            raise ValueError(f"the edge {edge} was given {times} times; give it once")


def _edge(row: dict[str, Any], measurable: bool) -> AbsorptionEdge:
    same = ("parent", "child", "parent_feature", "child_feature", "parent_cosine", "child_cosine",
            "parent_f1", "child_f1")  # fmt: skip
    eligible = measurable and row["n_child"] >= MIN_CHILD_TOKENS
    alone = eligible and row["n_parent_alone"] >= MIN_CHILD_TOKENS
    fires = _less(row["n_child"], row["n_silent"])
    fires_alone = _less(row["n_parent_alone"], row["n_silent_alone"])
    return AbsorptionEdge(
        **{name: row[name] for name in same},
        n_with_child=row["n_child"],
        n_without_child=row["n_parent_alone"],
        fires_with_child=fires,
        fires_without_child=fires_alone,
        recall_with_child=_quotient(fires, row["n_child"]) if eligible else None,
        recall_without_child=_quotient(fires_alone, row["n_parent_alone"]) if alone else None,
        absorption_rate=row["absorption_rate"] if eligible else None,
        base_miss=row["base_miss"] if alone else None,
        excess=row["excess"] if alone else None,
        eligible=eligible,
    )


def _less(count: int, part: int | None) -> int | None:
    return None if part is None else count - part


def _quotient(part: int | None, whole: int) -> float | None:
    return None if part is None or not whole else part / whole
