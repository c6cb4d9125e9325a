"""Scores that are a quotient of a pair's sum and one number of each feature.

They are data and not a function alone, so that a GPU's kernel can divide where it adds up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Quotient:
    """`(sum / n - mean_i mean_j) / (by_i by_j)`, or over the smaller of `by_i` and `by_j`.

    Attributes:
        by: `[d_sae]` float64.
        smaller: whether it is the smaller of the two that divides, and not their product.
        mean: `[d_sae]` float64; none is subtracted where None, and a score below 0 is then 0.
        n: what the sum is divided by first.
    """

    by: Tensor
    smaller: bool = False
    mean: Tensor | None = None
    n: int = 1

    def __call__(self, i: Tensor, j: Tensor, sums: Tensor) -> Tensor:
        """Returns the scores `[n]` of pairs (i, j) with these `sums`, in float64."""
        by_i, by_j = self.by[i], self.by[j]
        by = by_i.minimum(by_j) if self.smaller else by_i * by_j
        if self.mean is None:
            return sums / by
        return ((sums / self.n - self.mean[i] * self.mean[j]) / by).clamp(min=0)
