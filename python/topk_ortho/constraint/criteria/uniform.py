"""The control that every comparison includes: pairs drawn uniformly at random."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.constraint.criteria.inputs import SelectorInputs
from topk_ortho.constraint.selection.selection import PairSelection, n_pairs


def uniform_pairs(e: SelectorInputs, k: int, *, seed: int) -> PairSelection:
    """Returns a selection of `k` pairs drawn uniformly at random, whatever the codes."""
    d_sae = e.codes.d_sae
    i, j, score = random_pairs(d_sae, k, seed=seed, device=e.codes.device)
    return PairSelection(i, j, score, k, n_pairs(d_sae), path="uniform")


def random_pairs(d_sae: int, k: int, *, seed: int, device: torch.device) -> tuple[Tensor, ...]:
    """Returns `k` distinct pairs with uniform scores in (0, 1], best first: `(i, j, score)`.

    Drawn on CPU, so that every device gets the same pairs from the same seed.
    """
    generator = torch.Generator().manual_seed(seed)
    total = n_pairs(d_sae)
    if 4 * k >= total:
        rank = torch.randperm(total, generator=generator)[:k]
    else:
        rank = torch.empty(0, dtype=torch.int64)
        while rank.numel() < k:
            more = torch.randint(total, (k + k // 2 + 8,), generator=generator)
            rank = torch.unique(torch.cat([rank, more]))
        rank = rank[torch.randperm(rank.numel(), generator=generator)[:k]]
    score = 1 - torch.rand(k, generator=generator)
    i, j = _unrank(rank, d_sae)
    order = torch.argsort(i * d_sae + j)
    i, j = i[order], j[order]
    order = torch.argsort(score, descending=True, stable=True)
    return i[order].to(device), j[order].to(device), score[order].to(device)


def _unrank(rank: Tensor, d_sae: int) -> tuple[Tensor, Tensor]:
    """The rank-th pair in (i, j) order: pairs from row i on number (d - i)(d - i - 1) / 2."""
    from_end = n_pairs(d_sae) - 1 - rank
    row = ((1 + 8 * from_end.double()).sqrt() - 1).div(2).floor().long()
    row = torch.where(row * (row + 1) // 2 > from_end, row - 1, row)
    row = torch.where((row + 1) * (row + 2) // 2 <= from_end, row + 1, row)
    i = d_sae - 2 - row
    j = d_sae - 1 - (from_end - row * (row + 1) // 2)
    return i, j
