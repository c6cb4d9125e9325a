"""The decoder rows nearest to each row, exactly, without the matrix of all cosines.

Costs `d_sae² * d / 2` multiply-adds, in tiles of the upper triangle. float32 products only discard:
a few more rows than are wanted are scored again in float64, and a row of which that is not enough
to be sure is compared with all others in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from topk_ortho.constraint.criteria.cosine import Cosine
from topk_ortho.constraint.selection.tiles import tile_side

SPARE = 8
"""Rows that are scored again beyond those that are wanted."""


class Nearest(NamedTuple):
    """The nearest rows.

    Attributes:
        rows: `[d_sae, k]` int64, the nearest first, ties to the smaller.
        cosine: `[d_sae, k]` float64.
    """

    rows: Tensor
    cosine: Tensor


def nearest_rows(W_dec: Tensor, k: int, *, memory_budget: int) -> Nearest:
    """Returns the `k` rows of `W_dec` `[d_sae, d]` with the largest cosine to each row.

    Args:
        W_dec: rows of any norm; a row of zeros has a cosine of 0 with all others.
        k: below `d_sae`.
        memory_budget: bytes for temporaries.
    """
    cosine = Cosine(W_dec, memory_budget=memory_budget)
    d_sae, width = W_dec.shape
    held = min(k + SPARE, d_sae - 1)
    best = _Best(d_sae, held, W_dec.device)
    side = tile_side(d_sae=d_sae, width=width, memory_budget=memory_budget)
    spans = [slice(at, min(at + side, d_sae)) for at in range(0, d_sae, side)]
    for left, right, tile in cosine.tiles(spans):
        if left is not right:
            best.offer(right, left, tile.T)
        best.offer(left, right, tile)
    return _exact(cosine, best, k)


class _Best:
    """The `held` rows with the largest approximate cosine so far."""

    def __init__(self, d_sae: int, held: int, device: torch.device):
        self.value = torch.full((d_sae, held), -torch.inf, device=device)
        self.index = torch.zeros(d_sae, held, dtype=torch.int64, device=device)

    def offer(self, rows: slice, others: slice, cosine: Tensor) -> None:
        """Take in cosines `[rows, others]`."""
        held = self.value.shape[1]
        value, at = cosine.topk(min(held, cosine.shape[1]), dim=1)
        value = torch.cat([self.value[rows], value.to(self.value.dtype)], 1)
        index = torch.cat([self.index[rows], at + others.start], 1)
        self.value[rows], at = value.topk(held, dim=1)
        self.index[rows] = index.gather(1, at)


def _exact(cosine: Cosine, best: _Best, k: int) -> Nearest:
    """The `k` best of what is held, by float64."""
    d_sae, held = best.index.shape
    index, value = [], []
    for at in range(0, d_sae, 1024):
        found = best.index[at : at + 1024]
        i = torch.arange(at, at + len(found), device=found.device).repeat_interleave(held)
        exact = cosine(i, found.flatten()).view(len(found), held)
        order = torch.argsort(found, dim=1, stable=True)
        found, exact = found.gather(1, order), exact.gather(1, order)
        order = torch.argsort(exact, dim=1, descending=True, stable=True)[:, :k]
        found, exact = found.gather(1, order), exact.gather(1, order)
        if held < d_sae - 1:
            _look_again(cosine, best, at, found, exact)
        index.append(found)
        value.append(exact)
    return Nearest(torch.cat(index), torch.cat(value))


def _look_again(cosine: Cosine, best: _Best, at: int, found: Tensor, exact: Tensor) -> None:
    """Compare rows with all others where what was not held could belong to the best."""
    k = found.shape[1]
    least = best.value[at : at + len(found), -1].double() + 2 * cosine.dot_error
    for row in (least >= exact[:, -1]).nonzero().flatten().tolist():
        own = torch.full((len(best.index),), at + row, device=found.device)
        every = cosine(own, torch.arange(len(best.index), device=found.device))
        every[at + row] = -torch.inf
        order = torch.argsort(every, descending=True, stable=True)[:k]
        found[row], exact[row] = order, every[order]
