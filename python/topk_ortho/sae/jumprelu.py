"""JumpReLU: every pre-activation above its feature's own threshold (Rajamanoharan et al. 2024).

The thresholds θ learn, though the code is a step function of them: inside a window of width ε
around θ the step counts as a ramp (their equations 11 and 12, with a rectangle as kernel K), so

    df/dθ = -(θ / ε) K((pre - θ) / ε),    dL0/dθ = -(1 / ε) K((pre - θ) / ε).

Pre-activations get a gradient where the feature is active, and none from L0. Unlike theirs, ε is
a share of θ, so that it carries over between data of any scale.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from topk_ortho.config import ConfigError, SAEConfig
from topk_ortho.sae.sae import SAE, Forward
from topk_ortho.sparse.codes import Codes

SURPLUS = 1.5
MOST_AT_START = 0.4  # of the features; a threshold is above 0
FIRST_COEFFICIENT = 0.01
"""Of L0 before it is steered, in variances of the data."""
MOST = 1e30
"""A threshold of infinity, or of 0 on the other side, has no logarithm that can be trained."""


class JumpReLUSAE(SAE):
    """Features fire above their thresholds, in training and after it.

    Attributes:
        log_threshold: `[d_sae]`, the logarithms of the thresholds; `start` sets them by the data.
    """

    name = "jumprelu"
    inference = "threshold"
    learns_thresholds = True

    def __init__(self, config: SAEConfig, *, d_in: int, seed: int, d_out: int | None = None):
        super().__init__(config, d_in=d_in, seed=seed, d_out=d_out)
        self.log_threshold = nn.Parameter(torch.zeros(self.d_sae))

    @classmethod
    def check(cls, config: SAEConfig) -> None:
        if config.bf16_prefilter:
            raise ConfigError(
                f"--sae.bf16-prefilter was given with --sae.kind {config.kind}, but its "
                "thresholds learn from pre-activations just below them, which no prefilter "
                "computes; leave --sae.bf16-prefilter out."
            )

    @classmethod
    def first_l0(cls, config: SAEConfig) -> float:
        return min(config.d_sae, SURPLUS * config.k)

    @classmethod
    def first_density(cls, config: SAEConfig) -> float:
        return 1.0

    def first_coefficient(self, variance: float) -> float:
        return FIRST_COEFFICIENT * variance

    @torch.no_grad()
    def start(self, *, variance: float) -> None:
        """Thresholds at which about `SURPLUS` times the target fire before the first step.

        At the start pre-activations are projections on random directions, about Gaussian; data of
        total `variance` gives them a variance of `variance / d_in`.
        """
        share = min(MOST_AT_START, SURPLUS * self.k / self.d_sae)
        spread = math.sqrt(variance / self.d_in)
        self.log_threshold.fill_(math.log(spread * NormalDist().inv_cdf(1 - share)))

    def activate(self, pre: Tensor) -> Tensor:
        return Jump.apply(pre, self.log_threshold, self.config.bandwidth)

    def active(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        row, col = (~(pre <= self.log_threshold.exp())).nonzero(as_tuple=True)
        return row, col

    def sparse_reconstructions(
        self, value: Tensor, codes: Codes, pre: Tensor
    ) -> tuple[Tensor, ...]:
        least = self.log_threshold.detach().exp() * (1 - self.config.bandwidth / 2)
        row, col = (~(pre <= least)).nonzero(as_tuple=True)
        wide = SparseJump.apply(
            value, self.log_threshold, pre[row, col], col, self.config.bandwidth
        )
        entries = Codes.from_entries(row, col, wide, batch=codes.batch, d_sae=self.d_sae)
        return super().sparse_reconstructions(wide, entries, pre)

    def sparsity(self, out: Forward) -> Tensor:
        """Returns the mean L0 of a batch, with its estimated gradient to the thresholds alone."""
        l0 = out.codes.nnz / out.codes.batch
        return L0.apply(self.log_threshold, out.pre, l0, self.config.bandwidth)

    def thresholds(self) -> Tensor:
        return self.log_threshold.exp()

    @torch.no_grad()
    def load_thresholds_(self, threshold: Tensor) -> None:
        # a feature fires where pre is positive at least; the logarithm has to stay finite
        self.log_threshold.copy_(threshold.double().clamp(1 / MOST, MOST).log())


class Jump(torch.autograd.Function):
    """`pre` `[batch, d_sae]` where it exceeds the threshold, 0 elsewhere; a NaN stays."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, log_threshold: Tensor, bandwidth: float) -> Tensor:
        threshold = log_threshold.exp()
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(pre <= threshold, 0.0, pre)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pre, threshold = ctx.saved_tensors
        near = _near(pre, threshold, ctx.bandwidth)
        total = (grad * near).sum(0, dtype=threshold.dtype)
        slope = -threshold / ctx.bandwidth * total  # dθ = θ d log θ
        return grad * ~(pre <= threshold), slope, None


class SparseJump(torch.autograd.Function):
    """The same for some entries, sorted by row, with those of the window below the threshold.

    Inputs: `value` `[nnz]` of the active ones, `log_threshold` `[d_sae]`, and of all of them the
    pre-activation `pre` and the feature `col`, `[wide]`. Output: `[wide]`.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, log_threshold: Tensor, pre: Tensor, col: Tensor, bandwidth: float
    ) -> Tensor:
        threshold = log_threshold.exp()
        active = ~(pre <= threshold[col])
        ctx.save_for_backward(pre, threshold, col, active)
        ctx.bandwidth = bandwidth
        return torch.zeros_like(pre).masked_scatter_(active, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pre, threshold, col, active = ctx.saved_tensors
        near = _near(pre, threshold[col], ctx.bandwidth)
        total = torch.zeros_like(threshold).index_add_(0, col, grad * near)
        return grad[active], -threshold / ctx.bandwidth * total, None, None, None


class L0(torch.autograd.Function):
    """`l0`, which depends on the thresholds by the share of `pre` inside their windows."""

    @staticmethod
    def forward(
        ctx: Any, log_threshold: Tensor, pre: Tensor, l0: float, bandwidth: float
    ) -> Tensor:
        threshold = log_threshold.exp()
        near = _near(pre, threshold, bandwidth).sum(0)
        ctx.save_for_backward(near / (bandwidth * len(pre)))
        return log_threshold.new_tensor(l0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (density,) = ctx.saved_tensors
        return -grad * density, None, None, None


def _near(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """Returns whether a pre-activation lies in the window of its threshold."""
    return (pre > threshold * (1 - bandwidth / 2)) & (pre < threshold * (1 + bandwidth / 2))
