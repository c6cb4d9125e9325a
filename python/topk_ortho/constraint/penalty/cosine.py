"""Cosines of chosen pairs of decoder rows, with a gradient to the rows that move, in PyTorch.

A sampled product gives the cosines, a CSR product the gradient; the normalisation is worked out by
hand. No `[k, d_in]` block is formed, and no copy of the rows unless norms are so extreme that
their products would leave the range: beside the gradient, memory is a few columns of `[k]`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from topk_ortho.machine.spans import spanned
from topk_ortho.sparse.csr import csr, dots, product
from topk_ortho.sparse.scale import at_safe_scale, times_two_to_the


class PairCosine(torch.autograd.Function):
    """Returns `cos[p]` of rows `i[p]` and `j[p]` of `W_dec` `[d_sae, d_in]`, 0 where a row is zero.

    `i_is_child` `[k]` bool says which row receives the gradient; None for both. The gradient grows
    as its row shrinks, and is infinite where it is beyond the dtype.
    """

    @staticmethod
    def forward(ctx, W_dec: Tensor, i: Tensor, j: Tensor, i_is_child: Tensor | None):
        rows, norm, exponent = at_safe_scale(W_dec)
        inverse = torch.where(norm > 0, 1 / norm, 0.0)
        order, starts = _by_row(i, len(rows))
        cosine = torch.empty(i.numel(), dtype=rows.dtype, device=rows.device)
        cosine[order] = dots(starts, j[order], rows, rows)
        cosine.mul_(inverse[i]).mul_(inverse[j])
        ctx.save_for_backward(rows, inverse, i, j, i_is_child, cosine, exponent)
        return cosine

    @staticmethod
    @once_differentiable
    @spanned("penalty")
    def backward(ctx, grad: Tensor):
        rows, inverse, i, j, i_is_child, cosine, exponent = ctx.saved_tensors
        if i_is_child is None:
            moving, fixed = torch.cat([i, j]), torch.cat([j, i])
            slope, cosine = grad.repeat(2), cosine.repeat(2)
        else:
            moving, fixed = torch.where(i_is_child, i, j), torch.where(i_is_child, j, i)
            slope = grad
        along = torch.zeros_like(inverse).index_add_(0, moving, slope * cosine)
        order, starts = _by_row(moving, len(rows))
        value = (slope * inverse[fixed])[order]
        out = product(csr(starts, fixed[order], value, (len(rows), len(rows))), rows)
        # d cos / d row: the part along the row is removed, and the rest is divided by the norm.
        out.addcmul_(rows, along.mul_(inverse)[:, None], value=-1).mul_(inverse[:, None])
        if exponent is not None:
            out = times_two_to_the(out, exponent)
        return out, None, None, None


def _by_row(row: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Returns the order of the entries by row, and `[n + 1]` int64, where each row starts in it."""
    counts = row.new_zeros(n + 1).index_add_(0, row + 1, torch.ones_like(row))  # waits for nothing
    return torch.argsort(row, stable=True), counts.cumsum(0)
