"""What a selection reaches: how many features, and how many pairs that really overlap.

Where a few rows are much louder than the others, all products worth choosing may lie among the few
features of those rows. The penalty then has nothing to push apart, and training goes on as if there
were no constraint; `Idle` notices that.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

COVERED = 0.1
"""Share of the living features that pairs have to cover, where there are as many pairs."""
SILENT = 1e-6
"""Firing rate below which a feature is not living: a feature that stops to fire, falls below it
from 1e-3 in 700 steps."""
LOOKS = 3
"""Looks in a row that have to find less, so that one odd batch warns of nothing."""
LOOK_EVERY = 100
"""Steps between two looks of a loop that logs nothing."""


@dataclass(frozen=True)
class Reach:
    """What the current pairs reach.

    Attributes:
        pairs: how many there are.
        overlapping: share of them whose overlap is above their threshold τ, 0 without pairs.
        features: how many features they lie among.
        living: features that fire at all.
    """

    pairs: int
    overlapping: float
    features: int
    living: int

    @property
    def narrow(self) -> bool:
        """Returns whether pairs for all living features lie among a few of them."""
        return self.pairs >= self.living and self.features < COVERED * self.living


def reach(i: Tensor, j: Tensor, overlapping: Tensor, firing_rate: Tensor) -> Reach:
    """Returns what pairs reach.

    Args:
        i: `[k]` int64, one feature of each pair.
        j: `[k]` int64, the other.
        overlapping: `[k]` bool, whether their overlap is above its threshold.
        firing_rate: `[d_sae]`, running; a feature that has not fired for long is not living.
    """
    features = torch.zeros_like(firing_rate, dtype=torch.bool)
    features[i] = features[j] = True
    living = firing_rate > SILENT
    numbers = torch.stack([overlapping.sum(), features.sum(), (living | features).sum()]).tolist()
    return Reach(len(i), numbers[0] / max(len(i), 1), numbers[1], numbers[2])


class Idle:
    """Warns, once, of a constraint whose pairs lie among a few features again and again."""

    def __init__(self) -> None:
        self._narrow = 0
        self._warned = False

    def look(self, step: int, reach: Reach) -> None:
        """Take in what the pairs of a step reach."""
        self._narrow = self._narrow + 1 if reach.narrow else 0
        if self._narrow < LOOKS or self._warned:
            return
        self._warned = True
        warnings.warn(
            f"step {step}: all {reach.pairs} pairs lie among {reach.features} of "
            f"{reach.living} living features, and {reach.overlapping:.0%} of them overlap by more "
            "than τ, so the constraint is idle for the rest; where a few loud activations decide "
            "which pairs score most, the default criterion, row-coactivation, counts all alike, "
            "and --max-norm 10 leaves them out.",
            stacklevel=2,
        )
