"""The sparse step: an SAE's forward and backward pass that touch only the active entries.

Beside the encoder's product nothing here costs `batch * d_sae`: decoding and the gradients of both
weights are products with a CSR matrix, the gradient of the code is sampled at its entries, and that
of `b_dec` is a matrix-vector product. The dense twin is `SAE.training_pass` with `sparse=False`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from topk_ortho.sparse.csr import csr, dots, product, row_starts


def by_feature(row: Tensor, col: Tensor, d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns `(starts [d_sae + 1], row, order)`: the entries sorted by feature, rows rising."""
    order = torch.argsort(col, stable=True)
    return row_starts(col, d_sae), row[order], order


class Encode(torch.autograd.Function):
    """The `relu` of some pre-activations, with the gradient to weights and biases.

    Inputs: `x` `[batch, d_in]`, what is taken off it, `centre` `[d_in]`, `W_enc` `[d_in, d_sae]`,
    `b_enc`; and of the entries `row` and `col` their pre-activation `pre` (computed from these),
    all `[nnz]`. Output: `[nnz]`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        centre: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        pre: Tensor,
        row: Tensor,
        col: Tensor,
    ) -> Tensor:
        value = torch.relu(pre)
        ctx.save_for_backward(x, centre, W_enc, row, col, value)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, centre, W_enc, row, col, value = ctx.saved_tensors
        d_sae = W_enc.shape[1]
        grad = grad * (value > 0)
        starts, rows, order = by_feature(row, col, d_sae)
        transposed = csr(starts, rows, grad[order], (d_sae, len(x)))
        grad_W_enc = product(transposed, x - centre)  # [d_sae, d_in]
        grad_b_enc = torch.zeros(d_sae, dtype=grad.dtype, device=grad.device)
        grad_b_enc.index_add_(0, col, grad)
        grad_centre = -(W_enc @ grad_b_enc) if ctx.needs_input_grad[1] else None
        return None, grad_centre, grad_W_enc.T, grad_b_enc, None, None, None


class Decode(torch.autograd.Function):
    """The product `codes @ W_dec` for codes `(crow, col, value)`; `row` is `crow` expanded."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, W_dec: Tensor, crow: Tensor, row: Tensor, col: Tensor
    ) -> Tensor:
        ctx.save_for_backward(value, W_dec, crow, row, col)
        return product(csr(crow, col, value, (len(crow) - 1, len(W_dec))), W_dec)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, W_dec, crow, row, col = ctx.saved_tensors
        grad = grad.contiguous()
        shape = (len(crow) - 1, len(W_dec))
        grad_value = dots(crow, col, grad, W_dec)
        starts, rows, order = by_feature(row, col, len(W_dec))
        transposed = csr(starts, rows, value[order], (shape[1], shape[0]))
        return grad_value, product(transposed, grad), None, None, None
