"""The Rust side of the penalty: pairs of decoder rows, their penalty and its gradient, on CPU.

Rows may have any norm, so that no normalised copy of the decoder is made; each row
of the gradient is owned by one thread, so that the bits do not depend on the number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from topk_ortho import _core
from topk_ortho.machine.spans import spanned


def takes(W_dec: Tensor) -> bool:
    """Returns whether Rust can work on these rows: float32 on CPU, row after row."""
    return W_dec.device.type == "cpu" and W_dec.dtype == torch.float32 and W_dec.is_contiguous()


class NativePairPenalty(torch.autograd.Function):
    """`Σ weight[p] * relu(overlap[p] - tau[p])²` over pairs of rows, in one pass with its gradient.

    Inputs: `W_dec` `[d_sae, d_in]`, `i`, `j`, `tau`, `weight` and `i_is_child` `[k]`, and
    `both_signs`: whether the overlap is `|cos|` or `cos`. Only the child's row moves.
    """

    @staticmethod
    def forward(
        ctx,
        W_dec: Tensor,
        i: Tensor,
        j: Tensor,
        tau: Tensor,
        weight: Tensor,
        i_is_child: Tensor,
        both_signs: bool,
    ):
        ctx.save_for_backward(W_dec, i, j, tau, weight, i_is_child)
        ctx.both_signs = both_signs
        value, ctx.gradient = _pair_penalty(W_dec, i, j, tau, weight, i_is_child, both_signs)
        return W_dec.new_tensor(value)

    @staticmethod
    @once_differentiable
    @spanned("penalty")
    def backward(ctx, grad: Tensor):
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:  # given away by an earlier backward pass
            W_dec, i, j, tau, weight, i_is_child = ctx.saved_tensors
            _, gradient = _pair_penalty(W_dec, i, j, tau, weight, i_is_child, ctx.both_signs)
        scale = float(grad)
        return gradient if scale == 1 else gradient.mul_(scale), *[None] * 6


class NativePairCosine(torch.autograd.Function):
    """Returns `cos[p]` of rows `i[p]` and `j[p]` of `W_dec` `[d_sae, d_in]`, 0 where a row is zero.

    `i_is_child` `[k]` bool says which row receives the gradient; None for both.
    """

    @staticmethod
    def forward(ctx, W_dec: Tensor, i: Tensor, j: Tensor, i_is_child: Tensor | None):
        threads = torch.get_num_threads()
        rows = W_dec.detach().numpy()
        norms = _core.row_norms(rows, threads=threads)
        cosine = _core.pair_cosines(rows, i.numpy(), j.numpy(), norms=norms, threads=threads)
        ctx.save_for_backward(W_dec, i, j, i_is_child, torch.from_numpy(norms))
        return torch.from_numpy(cosine)

    @staticmethod
    @once_differentiable
    @spanned("penalty")
    def backward(ctx, grad: Tensor):
        W_dec, i, j, i_is_child, norms = ctx.saved_tensors
        moves_i = torch.ones_like(i, dtype=torch.bool) if i_is_child is None else i_is_child
        out = _core.pair_gradient(
            W_dec.detach().numpy(),
            i.numpy(),
            j.numpy(),
            grad.contiguous().numpy(),
            moves_i.numpy(),
            (moves_i if i_is_child is None else ~moves_i).numpy(),
            norms=norms.numpy(),
            out=torch.empty_like(W_dec).numpy(),
            threads=torch.get_num_threads(),
        )
        return torch.from_numpy(out), None, None, None


def _pair_penalty(
    W_dec: Tensor,
    i: Tensor,
    j: Tensor,
    tau: Tensor,
    weight: Tensor,
    i_is_child: Tensor,
    both_signs: bool,
) -> tuple[float, Tensor]:
    """Returns the penalty and its gradient `[d_sae, d_in]`."""
    threads = torch.get_num_threads()
    rows = W_dec.detach().numpy()
    value, gradient = _core.pair_penalty(
        rows,
        i.numpy(),
        j.numpy(),
        tau.numpy(),
        weight.numpy(),
        i_is_child.numpy(),
        both_signs=both_signs,
        norms=_core.row_norms(rows, threads=threads),
        out=torch.empty_like(W_dec).numpy(),
        threads=threads,
    )
    return value, torch.from_numpy(gradient)
