"""Cosines of chosen pairs of unit rows, with a gradient to the rows that may move.

Works through the pairs in pieces, so that no `[k, d_in]` block is kept for the backward pass: what
is saved is the rows themselves and the index tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

PIECE_BYTES = 16 * 2**20


def pairs_at_once(rows: Tensor) -> int:
    """Pairs per piece: two gathered blocks within `PIECE_BYTES`."""
    return max(1, PIECE_BYTES // (2 * rows.shape[1] * rows.element_size()))


def unit_rows(W_dec: Tensor) -> Tensor:
    """Rows of `W_dec` `[d_sae, d_in]` at unit norm; a zero row stays zero and gets no gradient."""
    norm = torch.linalg.vector_norm(W_dec, dim=1, keepdim=True)
    zero = norm == 0
    return (W_dec / norm.masked_fill(zero, 1.0)).masked_fill(zero, 0.0)


class PairCosine(torch.autograd.Function):
    """`cos[p] = <rows[i[p]], rows[j[p]]>`; `rows` `[d_sae, d_in]` unit, `i`, `j` `[k]` int64.

    `moves_i`, `moves_j` (`[k]` bool) say which of the two rows receives the gradient.
    """

    @staticmethod
    def forward(ctx, rows: Tensor, i: Tensor, j: Tensor, moves_i: Tensor, moves_j: Tensor):
        ctx.save_for_backward(rows, i, j, moves_i, moves_j)
        piece = pairs_at_once(rows)
        cosines = [
            torch.linalg.vecdot(rows[a], rows[b])
            for a, b in zip(i.split(piece), j.split(piece), strict=True)
        ]
        return torch.cat(cosines) if cosines else rows.new_empty(0)

    @staticmethod
    def backward(ctx, grad: Tensor):
        rows, i, j, moves_i, moves_j = ctx.saved_tensors
        out = torch.zeros_like(rows)
        for moving, fixed, moves in ((i, j, moves_i), (j, i, moves_j)):
            moving, fixed, weight = moving[moves], fixed[moves], grad[moves]
            piece = pairs_at_once(rows)
            for m, f, w in zip(
                moving.split(piece), fixed.split(piece), weight.split(piece), strict=True
            ):
                out.index_add_(0, m, w[:, None] * rows[f])
        return out, None, None, None, None
