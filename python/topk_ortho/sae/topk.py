"""TopK: the k largest pre-activations of each row (Gao et al. 2024, section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.sae.sae import SAE
from topk_ortho.sae.screen import Screen

SPARE = 32


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

    def screened(self, screen: Screen) -> tuple[Tensor, Tensor, Tensor]:
        k, (batch, d_sae) = int(self.config.k), screen.rough.shape
        rough, near = screen.rough.topk(min(d_sae, 2 * k + SPARE), dim=1, sorted=False)
        near = near.sort(dim=1).values
        row = torch.arange(batch, device=near.device).repeat_interleave(near.shape[1])
        exact = screen.exact(row, near.flatten()).view_as(near)
        kept = exact.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
        index, value = near.gather(1, kept), exact.gather(1, kept)
        # A feature that was ruled out has at most this.
        ruled_out = screen.upper(rough.amin(1), screen.error)
        unsure = (~(value.amin(1) > ruled_out)).nonzero().squeeze(1)
        if near.shape[1] < d_sae and unsure.numel():
            pre = torch.addmm(screen.b, screen.x[unsure], screen.W.T)
            index[unsure] = pre.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
            value[unsure] = pre.gather(1, index[unsure])
        row = torch.arange(batch, device=near.device).repeat_interleave(k)
        return row, index.flatten(), value.flatten()
