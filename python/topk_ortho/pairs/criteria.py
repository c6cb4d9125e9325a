"""Scores of pairs that fire together: from `Σ_b f_bi f_bj` to what a criterion ranks by.

Each entry of `COACTIVE` looks at the batch once and returns a function `(i, j, sums) -> score`
in float64. `Support` says which pairs are candidates at all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from topk_ortho.codes import Codes
from topk_ortho.pairs.cosine import Cosine

Score = Callable[[Tensor, Tensor, Tensor], Tensor]

# A column whose standard deviation is below this share of its mean is constant in float64.
CONSTANT = 1e-12


def coactivation(codes: Codes, cosine: Cosine | None) -> Score:
    """`Σ_b f_bi f_bj` (method 2)."""
    return lambda i, j, sums: sums


def correlation(codes: Codes, cosine: Cosine | None) -> Score:
    """Pearson correlation over the batch from sparse moments; negative or undefined is 0."""
    value = codes.value.double()
    counts = codes.counts().double()
    total = torch.zeros(codes.d_sae, dtype=torch.float64, device=codes.device)
    mean = total.index_add(0, codes.col, value) / codes.batch
    spread = total.index_add(0, codes.col, (value - mean[codes.col]) ** 2)
    std = ((spread + (codes.batch - counts) * mean**2) / codes.batch).sqrt()
    std = torch.where(std > CONSTANT * mean, std, torch.inf)

    def score(i: Tensor, j: Tensor, sums: Tensor) -> Tensor:
        return ((sums / codes.batch - mean[i] * mean[j]) / (std[i] * std[j])).clamp(min=0)

    return score


def coactive_cosine(codes: Codes, cosine: Cosine | None) -> Score:
    """`max(cos_ij, 0)` among pairs that fire together at least once in the batch."""
    assert cosine is not None
    return lambda i, j, sums: cosine(i, j).clamp(min=0)


COACTIVE: dict[str, Callable[[Codes, Cosine | None], Score]] = {
    "coactivation": coactivation,
    "correlation": correlation,
    "coactive-cosine": coactive_cosine,
}
WITH_SUPPORT_FLOOR = frozenset({"correlation"})
