"""Pairs in slots, as many as asked for: what a GPU can hand on while the host does not wait."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Slots:
    """Pairs and empty slots; every pair scores above 0, and an empty slot 0.

    Attributes:
        i: `[slots]` integers, the smaller feature index of each pair.
        j: `[slots]` integers, the larger one.
        score: `[slots]` float32.
    """

    i: Tensor
    j: Tensor
    score: Tensor
