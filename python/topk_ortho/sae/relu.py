"""ReLU: every positive pre-activation; an L1 term in the loss keeps them few."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from topk_ortho.config import SAEConfig
from topk_ortho.sae.prefilter import Prefilter
from topk_ortho.sae.sae import SAE

FIRST_COEFFICIENT = 0.1
"""Of L1 before it is steered, in standard deviations of the data."""


class ReLUSAE(SAE):
    """The L1 SAE of Bricken et al. 2023, with unit decoder rows."""

    name = "relu"
    encode_copies = 1

    @classmethod
    def first_l0(cls, config: SAEConfig) -> float:
        return config.d_sae / 2

    @classmethod
    def first_density(cls, config: SAEConfig) -> float:
        return 1.0

    def first_coefficient(self, variance: float) -> float:
        return FIRST_COEFFICIENT * variance**0.5

    @torch.no_grad()
    def balanced_coefficient(
        self, batches: Sequence[Tensor], targets: Sequence[Tensor] | None = None
    ) -> float | None:
        """Returns the coefficient of L1 at which training is in equilibrium; None without one.

        There the gradients of reconstruction and L1 to the encoder's biases cancel, which for
        their sum over the features means: it is twice the mean of `<target - x_hat, d_i>` over
        active entries.
        """
        pull, active = 0.0, 0
        for x, target in zip(batches, targets or batches, strict=True):
            acts = self.encode(x)
            along = (target - self.decode(acts)) @ self.W_dec.T
            pull += float(along[acts > 0].sum(dtype=torch.float64))
            active += int((acts > 0).sum())
        coefficient = 2 * pull / max(active, 1)
        return coefficient if coefficient > 0 else None

    def activate(self, pre: Tensor) -> Tensor:
        return torch.relu(pre)

    def active(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        row, col = (pre > 0).nonzero(as_tuple=True)
        return row, col

    def prefiltered(self, prefilter: Prefilter) -> tuple[Tensor, Tensor, Tensor]:
        never = prefilter.approximate <= prefilter.never_positive()
        row, col = (~never).nonzero(as_tuple=True)
        return row, col, prefilter.exact(row, col)
