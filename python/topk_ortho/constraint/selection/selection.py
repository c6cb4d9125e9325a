"""The chosen pairs, and how many there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from topk_ortho.constraint.slots import Slots

WHOLE, LOST, NOT_FINITE = 0, 1, 2
"""Outcomes of a selection on a GPU: the best pairs; more than its buffers held; a score of inf."""


@dataclass(frozen=True, repr=False)
class PairSelection:
    """Chosen pairs, best first, ties to the smaller (i, j).

    Attributes:
        i: `[k]` int64, the smaller feature index of each pair.
        j: `[k]` int64, the larger one.
        score: `[k]` float32, above 0.
        requested: k as asked for, before it is limited by the number of positive scores.
        positive: pairs with a positive score in this batch.
        unsupported: pairs that the support floor kept out of the candidates.
        path: the way they were computed, for the log.
        repeats: whether a pair may stand here twice, one after the other (`ortsae`).
        blocks: pieces that the candidates came in.
        largest_block: pairs of the largest; 0 where they were never laid out.
    """

    i: Tensor
    j: Tensor
    score: Tensor
    requested: int
    positive: int
    unsupported: int = 0
    path: str = ""
    repeats: bool = False
    blocks: int = 1
    largest_block: int = 0

    def distinct(self) -> tuple[Tensor, Tensor]:
        """Returns `(i, j)` with every pair once."""
        if not self.repeats:
            return self.i, self.j
        new = torch.ones_like(self.i, dtype=torch.bool)
        new[1:] = (self.i[1:] != self.i[:-1]) | (self.j[1:] != self.j[:-1])
        return self.i[new], self.j[new]

    def __repr__(self) -> str:
        """Returns how many pairs were chosen of how many, and their scores."""
        best = f", scores {self.score[0]:.4g} to {self.score[-1]:.4g}" if len(self) else ""
        return f"PairSelection({len(self):,} of {self.positive:,} positive pairs{best})"

    def state_dict(self) -> dict[str, Any]:
        """Returns its columns and numbers by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of_state(cls, state: dict[str, Any], d_sae: int | None = None) -> PairSelection:
        """Returns the selection that `state_dict` describes.

        Args:
            state: what it returned.
            d_sae: number of features, which the pairs are checked against.

        Raises:
            KeyError, TypeError: it does not describe a selection.
            ValueError: pairs of other features.
        """
        features = torch.cat([state["i"], state["j"]])
        if len(features) and d_sae is not None:
            low, high = features.aminmax()
            if not 0 <= int(low) <= int(high) < d_sae:
                raise ValueError(f"pairs of other features than the {d_sae}")
        return cls(**state)

    def __len__(self) -> int:
        return self.i.numel()

    @property
    def slots(self) -> Slots | None:
        """Returns the pairs in slots; None where their number is known."""
        return None

    @property
    def settled(self) -> PairSelection:
        """Returns the selection with its pairs at hand; the host may have to wait for them."""
        return self

    @property
    def saturation(self) -> float:
        """Returns taken / positive; above 0.5 hardly anything is being selected."""
        return len(self) / self.positive if self.positive else 0.0


class SlotSelection(PairSelection):
    """A selection that is still on the GPU: a penalty takes its slots, and the host need not wait.

    The host waits once, for the first of `i`, `j`, `score`, `positive`, `unsupported` that it
    reads; the pairs are then those of any other selection. Where buffers were too small, the
    slots are all empty, and reading selects again, exactly.

    Args:
        slots: the pairs, in any order.
        counts: `[3]` int64: positive scores, pairs without support, and the outcome.
        requested: k as asked for.
        path: the way they were computed.
        again: selects the same on a path that cannot lose anything.
    """

    def __init__(
        self,
        slots: Slots,
        counts: Tensor,
        requested: int,
        path: str,
        *,
        again: Callable[[], PairSelection],
    ):
        set_ = object.__setattr__  # of a frozen dataclass
        for name, value in {"requested": requested, "path": path, "_again": again}.items():
            set_(self, name, value)
        set_(self, "_slots", slots)
        set_(self, "counts", counts)

    counts: Tensor
    _slots: Slots
    _again: Callable[[], PairSelection]

    @property
    def slots(self) -> Slots:
        return self._slots

    @cached_property
    def settled(self) -> PairSelection:
        positive, unsupported, outcome = self.counts.tolist()
        if outcome != WHOLE:
            return self._again()
        i, j, score = self._slots.i.long(), self._slots.j.long(), self._slots.score
        order = torch.argsort(j, stable=True)
        order = order[torch.argsort(i[order], stable=True)]
        order = order[torch.argsort(score[order], stable=True, descending=True)]
        order = order[: min(positive, len(order))]
        return PairSelection(
            i[order], j[order], score[order], self.requested, positive, unsupported, self.path
        )

    i = property(lambda self: self.settled.i)
    j = property(lambda self: self.settled.j)
    score = property(lambda self: self.settled.score)
    positive = property(lambda self: self.settled.positive)
    unsupported = property(lambda self: self.settled.unsupported)


def n_pairs(d_sae: int) -> int:
    """Returns the number of unordered pairs of `d_sae` features."""
    return d_sae * (d_sae - 1) // 2
