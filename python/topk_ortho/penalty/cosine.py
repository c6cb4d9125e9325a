"""Cosines of chosen pairs of unit rows, with a gradient to the rows that may move.

Works through the pairs in pieces, so that no `[k, d_in]` block is kept for the backward pass: what
is saved is the rows themselves and the index tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
        cosines = rows.new_empty(i.numel())
        # Blocks that are used again: allocating per piece leaves a heap full of holes.
        left, right = _blocks(rows, i.numel(), 2)
        for piece in _pieces(i.numel(), len(left)):
            a = torch.index_select(rows, 0, i[piece], out=left[: piece.stop - piece.start])
            b = torch.index_select(rows, 0, j[piece], out=right[: piece.stop - piece.start])
            torch.sum(a.mul_(b), 1, out=cosines[piece])
        return cosines

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        rows, i, j, moves_i, moves_j = ctx.saved_tensors
        out = torch.zeros_like(rows)
        (block,) = _blocks(rows, i.numel(), 1)
        for moving, fixed, moves in ((i, j, moves_i), (j, i, moves_j)):
            moving, fixed, weight = moving[moves], fixed[moves], grad[moves]
            for piece in _pieces(moving.numel(), len(block)):
                a = torch.index_select(rows, 0, fixed[piece], out=block[: piece.stop - piece.start])
                out.index_add_(0, moving[piece], a.mul_(weight[piece, None]))
        return out, None, None, None, None


def _blocks(rows: Tensor, pairs: int, n: int) -> list[Tensor]:
    """`n` blocks for the gathered rows of one piece."""
    height = max(1, min(pairs, pairs_at_once(rows)))
    return [rows.new_empty(height, rows.shape[1]) for _ in range(n)]


def _pieces(pairs: int, height: int) -> list[slice]:
    return [slice(at, min(at + height, pairs)) for at in range(0, pairs, height)]
