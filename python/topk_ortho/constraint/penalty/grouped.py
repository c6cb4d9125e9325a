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
CUT = 256  # pairs of a part, where both rows move


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
        self.k = k
        self.counts = torch.zeros(d_sae, dtype=torch.int32, device=i.device)
        grid, pairs = (-(-k // 1024),), (i, j, score, rate, k)
        launch(kernels.count_children, grid, *pairs, self.counts, B=1024)
        self.end = torch.cumsum(self.counts, 0, dtype=torch.int32)
        found = torch.empty(4, k, dtype=torch.int32, device=i.device)
        cursor = self.end - self.counts
        launch(kernels.scatter_children, grid, *pairs, cursor, found[0], found[1], B=1024)
        launch(kernels.order_groups, (d_sae,), self.end, self.counts, *found, B=32, num_warps=1)
        self.pair, self.parent = found[2], found[3]
        self.programs, self.row_of = d_sae, self.pair  # without parts, no kernel reads row_of

    def cosines(self, W_dec: Tensor) -> Tensor:
        """Returns `[k]` cosines of the pairs, 0 in empty slots."""
        out = torch.zeros(self.k, dtype=torch.float32, device=W_dec.device)
        self._pass(W_dec, out, out, out, out, both=False, cosine=True)
        return out

    def penalty(
        self, W_dec: Tensor, tau: Tensor, weight: Tensor, *, both: bool
    ) -> tuple[Tensor, Tensor]:
        """Returns `Σ weight * relu(overlap - tau)²`, and its gradient `[d_sae, d_in]`."""
        gradient = torch.empty_like(W_dec)
        loss = torch.empty(self.programs, dtype=torch.float32, device=W_dec.device)
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
        launch(kernels.pair_penalty, (self.programs,), W_dec, self.end, self.counts, self.pair,
               self.parent, self.row_of, tau, weight, out, loss, d, D=width, ROWS=rows, BOTH=both,
               COSINE=cosine, CUT=self.programs > d_sae, num_warps=_warps(width),
               enable_fp_fusion=True)  # fmt: skip


class GroupsOfBoth(Groups):
    """Pairs by either of their rows, since both move; groups in parts of at most `CUT` pairs.

    The first part of every row comes first, then, row by row, all further ones. How many these
    are depends on the pairs; there is room for as many as k pairs can have.

    Args:
        i, j: `[k]` integers.
        score: `[k]`; a slot of score 0 is empty.
        d_sae: how many rows there are.
    """

    def __init__(self, i: Tensor, j: Tensor, score: Tensor, d_sae: int):
        self.k, device = i.numel(), i.device
        i, j = i.long(), j.long()
        key = torch.cat([i * d_sae + j, j * d_sae + i])
        empty = (score <= 0).repeat(2)
        key, order = key.masked_fill(empty, d_sae**2).sort(stable=True)
        self.pair, self.parent = (order % self.k).int(), (key % d_sae).int()
        row = torch.arange(d_sae, device=device)
        stop = torch.searchsorted(key, (row + 1) * d_sae)
        start = torch.searchsorted(key, row * d_sae)
        more = (stop - start - 1).clamp(min=0) // CUT
        self.more_end, self.more = more.cumsum(0), more
        # One more row, of no pair: that of the parts that are not needed.
        further = torch.arange(2 * self.k // CUT + 1, device=device)
        row_of = torch.searchsorted(self.more_end, further, right=True)
        start, stop, nth = (torch.cat([t, t.new_zeros(1)]) for t in (start, stop, more.cumsum(0)))
        before = nth - torch.cat([more, more.new_zeros(1)])
        first = start[row_of] + (further - before[row_of] + 1) * CUT
        first = torch.cat([start[:-1], first])
        row_of = torch.cat([row, row_of])
        end = stop[row_of].minimum(first + CUT)
        self.end, self.counts = end.int(), (end - first).clamp(min=0).int()
        self.row_of, self.programs = row_of.clamp(max=d_sae - 1).int(), len(row_of)

    def penalty(
        self, W_dec: Tensor, tau: Tensor, weight: Tensor, *, both: bool
    ) -> tuple[Tensor, Tensor]:
        """Returns `Σ weight * relu(overlap - tau)²`, and its gradient `[d_sae, d_in]`."""
        from topk_ortho.constraint.penalty import kernels

        d_sae, d = W_dec.shape
        width = next_power_of_two(d)
        parts = W_dec.new_empty(self.programs, d)
        loss = W_dec.new_empty(self.programs)
        self._pass(W_dec, tau, weight, parts, loss, both=both, cosine=False)
        launch(kernels.add_parts, (d_sae,), parts, self.more_end.int(), self.more.int(), d_sae, d,
               D=width, num_warps=_warps(width))  # fmt: skip
        return (loss.sum(dtype=torch.float64) / 2).float(), parts[:d_sae]  # each pair came twice


def _warps(width: int) -> int:
    return 4 if width <= NARROW else 8


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
