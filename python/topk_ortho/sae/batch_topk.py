"""BatchTopK: the k * batch largest pre-activations of a batch (Bussmann et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.config import SAEConfig
from topk_ortho.sae.sae import SAE


class BatchTopKSAE(SAE):
    """Keeps k features per row on average; outside training one threshold does.

    Attributes:
        threshold: scalar that `pre` has to exceed outside training; 0 until it is calibrated.
    """

    threshold: Tensor

    def __init__(self, config: SAEConfig, *, d_in: int, seed: int):
        super().__init__(config, d_in=d_in, seed=seed)
        self.register_buffer("threshold", torch.zeros(()))

    def activate(self, pre: Tensor) -> Tensor:
        value, index = self._largest(pre)
        acts = torch.zeros(pre.numel(), dtype=pre.dtype, device=pre.device)
        return acts.scatter(0, index, torch.relu(value)).view_as(pre)

    def active(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        index = self._largest(pre)[1].sort().values
        row = torch.div(index, self.d_sae, rounding_mode="floor")
        return row, index - row * self.d_sae

    def _largest(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        """Values and flat positions of the k * batch largest."""
        kept = max(1, round(self.config.k * pre.shape[0]))
        return pre.flatten().topk(min(kept, pre.numel()), sorted=False)

    def inference_code(self, pre: Tensor) -> Tensor:
        return torch.relu(pre) * (pre > self.threshold)

    def thresholds(self) -> Tensor:
        return self.threshold.expand(self.d_sae)
