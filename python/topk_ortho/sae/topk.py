"""TopK: the k largest pre-activations of each row (Gao et al. 2024, section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.sae.sae import SAE


class TopKSAE(SAE):
    """Keeps exactly k features per row, fewer where fewer are positive."""

    def activate(self, pre: Tensor) -> Tensor:
        value, index = pre.topk(int(self.config.k), dim=1, sorted=False)
        return torch.zeros_like(pre).scatter(1, index, torch.relu(value))

    def active(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        k = int(self.config.k)
        index = pre.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
        row = torch.arange(len(pre), device=pre.device).repeat_interleave(k)
        return row, index.flatten()
