"""All pairs, tile by tile: criteria that have no sparse form. The full matrix is never held.

A tile holds the scores of features `rows` with features `columns`. Where its products are float32
they only discard: a pair survives if its approximate score, raised by a stated error bound, could
still win, and survivors are scored again in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from topk_ortho.constraint.criteria import Tiles

# Candidates: (i, j, float64 score, number of positive scores in the tile).
Block = tuple[Tensor, Tensor, Tensor, int]


def tile_blocks(
    tiles: Tiles, threshold: Callable[[], float | None], *, d_sae: int, k: int, memory_budget: int
) -> Iterator[Block]:
    """Yield the candidates of every tile on and above the diagonal.

    Args:
        tiles: how to score.
        threshold: the score below which nothing can win any more, or None.
        d_sae: number of features.
        k: how many pairs are wanted.
        memory_budget: bytes for the temporaries of one tile.
    """
    side = tile_side(d_sae=d_sae, width=tiles.width, memory_budget=memory_budget)
    for top in range(0, d_sae, side):
        for left in range(top, d_sae, side):
            tile = tiles.tile(slice(top, top + side), slice(left, left + side))
            if left == top:
                tile.masked_fill_(torch.ones_like(tile, dtype=torch.bool).tril_(), -torch.inf)
            yield _candidates(tiles, tile, top, left, threshold() or 0.0, k)


def tile_side(*, d_sae: int, width: int, memory_budget: int) -> int:
    """Returns the side of the largest tile that fits the budget, at 64 bytes a cell."""
    side = min(math.isqrt(memory_budget // 64), memory_budget // (64 * max(1, width)))
    return max(1, min(d_sae, side))


def _candidates(tiles: Tiles, tile: Tensor, top: int, left: int, least: float, k: int) -> Block:
    if tiles.exact is None:
        # float32 rounding may lift a score to the threshold.
        i, j = _pairs((tile >= least * (1 - 2.0**-23)) & (tile > 0), top, left)
        return i, j, tile[i - top, j - left], int((tile.float() > 0).sum())
    positive = int((tile > tiles.bound).sum())
    near = _pairs(tile.abs() <= tiles.bound, top, left)
    positive += int((tiles.exact(*near) > 0).sum())
    if tile.numel() > k:
        kth = float(tile.flatten().kthvalue(tile.numel() - k + 1).values)
        least = max(least, kth - tiles.bound)
    i, j = _pairs(tile >= least - tiles.bound, top, left)
    return i, j, tiles.exact(i, j).clamp(min=0), positive


def _pairs(mask: Tensor, top: int, left: int) -> tuple[Tensor, Tensor]:
    row, col = mask.nonzero(as_tuple=True)
    return row + top, col + left
