"""All pairs, from the weights: upper-triangular tiles of `W_dec W_dec^T` with a filter behind them.

float32 products only discard: a tile's value is within `bound` of the float64 cosine, and whatever
could still be among the k best is scored again in float64. The full matrix is never held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from topk_ortho.pairs.cosine import Cosine


def cosine_blocks(
    W_dec: Tensor,
    cosine: Cosine,
    collector_threshold: Callable[[], float | None],
    *,
    k: int,
    memory_budget: int,
) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
    """Yield `(i, j, cosine, positive)`: candidates and the number of positive cosines in the tile.

    Args:
        W_dec: `[d_sae, d_in]`.
        cosine: exact cosines of its rows.
        collector_threshold: a function that gives the score below which nothing can win, or None.
        k: how many pairs are wanted.
        memory_budget: bytes for the temporaries of one tile.
    """
    d_sae, d_in = W_dec.shape
    # (d_in + 2) roundings of 2^-24 in a dot product of unit rows, and as much again.
    bound = (d_in + 8) * 2.0**-23
    side = max(1, min(d_sae, math.isqrt(memory_budget // 64), memory_budget // (32 * d_in)))
    for top in range(0, d_sae, side):
        rows = _unit_rows(W_dec, cosine, top, top + side)
        for left in range(top, d_sae, side):
            tile = rows @ _unit_rows(W_dec, cosine, left, left + side).T
            if left == top:
                tile.masked_fill_(torch.ones_like(tile, dtype=torch.bool).tril_(), -1.0)
            positive = int((tile > bound).sum())
            near = _pairs((tile.abs() <= bound), top, left)
            positive += int((cosine(*near) > 0).sum())
            threshold = collector_threshold()
            least = 0.0 if threshold is None else threshold
            if tile.numel() > k:
                kth = tile.flatten().kthvalue(tile.numel() - k + 1).values
                least = max(least, float(kth) - bound)
            i, j = _pairs(tile >= least - bound, top, left)
            yield i, j, cosine(i, j).clamp(min=0), positive


def _unit_rows(W_dec: Tensor, cosine: Cosine, start: int, stop: int) -> Tensor:
    rows = W_dec[start:stop].detach().double() * cosine.inverse_norm[start:stop, None]
    # TF32 and bf16 products would break the bound.
    return rows.float() if torch.get_float32_matmul_precision() == "highest" else rows


def _pairs(mask: Tensor, top: int, left: int) -> tuple[Tensor, Tensor]:
    row, col = mask.nonzero(as_tuple=True)
    return row + top, col + left
