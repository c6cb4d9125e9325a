"""The penalty on a GPU in Triton: pairs by the row that moves, in one pass with the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from topk_ortho.machine.kernels import launch, next_power_of_two, run_on
from topk_ortho.machine.spans import spanned

WIDEST = 8192  # numbers of a row, which a program holds in registers
HELD = 8192  # numbers of other rows that a program holds at once, and at most
MOST_ROWS = 8
NARROW = 1024  # rows up to this width take four warps, others eight


def takes(W_dec: Tensor) -> bool:
    """Returns whether the kernels can work on these rows: float32 on a GPU with Triton."""
    if W_dec.dtype != torch.float32 or not W_dec.is_contiguous() or W_dec.shape[1] > WIDEST:
        return False
    return run_on(W_dec.device)


class Groups:
    """Pairs by the row that moves, in the order of the other row.

    Args:
        i, j: `[k]` integers.
        score: `[k]`; a slot of score 0 is empty.
        rate: `[d_sae]` float32: the rarer feature's row moves.
    """

    def __init__(self, i: Tensor, j: Tensor, score: Tensor, rate: Tensor):
        from topk_ortho.constraint.penalty import kernels

        k, d_sae = i.numel(), rate.numel()
        self.i, self.j, self.score, self.rate = i, j, score, rate
        self.counts = torch.zeros(d_sae, dtype=torch.int32, device=i.device)
        grid, pairs = (-(-k // 1024),), (i, j, score, rate, k)
        launch(kernels.count_children, grid, *pairs, self.counts, B=1024)
        self.end = torch.cumsum(self.counts, 0, dtype=torch.int32)
        found = torch.empty(4, k, dtype=torch.int32, device=i.device)
        cursor = self.end - self.counts
        launch(kernels.scatter_children, grid, *pairs, cursor, found[0], found[1], B=1024)
        launch(kernels.order_groups, (d_sae,), self.end, self.counts, *found, B=32, num_warps=1)
        self.pair, self.parent = found[2], found[3]

    def cosines(self, W_dec: Tensor) -> Tensor:
        """Returns `[k]` cosines of the pairs, 0 in empty slots."""
        out = torch.zeros(self.i.numel(), dtype=torch.float32, device=W_dec.device)
        self._pass(W_dec, out, out, out, out, both=False, cosine=True)
        return out

    def penalty(
        self, W_dec: Tensor, tau: Tensor, weight: Tensor, *, both: bool
    ) -> tuple[Tensor, Tensor]:
        """Returns `Σ weight * relu(overlap - tau)²`, and its gradient `[d_sae, d_in]`."""
        gradient = torch.empty_like(W_dec)
        loss = torch.empty(len(W_dec), dtype=torch.float32, device=W_dec.device)
        self._pass(W_dec, tau, weight, gradient, loss, both=both, cosine=False)
        return loss.sum(dtype=torch.float64).float(), gradient

    def _pass(
        self,
        W_dec: Tensor,
        tau: Tensor,
        weight: Tensor,
        out: Tensor,
        loss: Tensor,
        *,
        both: bool,
        cosine: bool,
    ) -> None:
        from topk_ortho.constraint.penalty import kernels

        d_sae, d = W_dec.shape
        width = next_power_of_two(d)
        rows = max(1, min(MOST_ROWS, HELD // width))
        launch(kernels.pair_penalty, (d_sae,), W_dec, self.end, self.counts, self.pair, self.parent,
               tau, weight, out, loss, d, D=width, ROWS=rows, BOTH=both, COSINE=cosine,
               num_warps=4 if width <= NARROW else 8, enable_fp_fusion=True)  # fmt: skip


class GroupedPenalty(torch.autograd.Function):
    """`Σ weight[p] * relu(overlap[p] - tau[p])²` of grouped pairs; only the rarer row moves.

    Inputs: `W_dec` `[d_sae, d_in]`, `groups`, `tau` and `weight` `[k]` float32, and `both`: whether
    the overlap is `|cos|` or `cos`.
    """

    @staticmethod
    def forward(
        ctx: Any, W_dec: Tensor, groups: Groups, tau: Tensor, weight: Tensor, both: bool
    ) -> Tensor:
        value, gradient = groups.penalty(W_dec, tau, weight, both=both)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    @spanned("penalty")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None, None, None
