"""TopK: the k largest pre-activations of each row (Gao et al. 2024, section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.config import ConfigError, SAEConfig
from topk_ortho.sae.prefilter import Prefilter
from topk_ortho.sae.sae import SAE

SPARE = 32


class TopKSAE(SAE):
    """Keeps exactly k features per row, fewer where fewer are positive."""

    name = "topk"
    inference = "topk"
    whole_k = True
    ranks_features = True
    fixed_entries = True
    encode_copies = 2

    @classmethod
    def check(cls, config: SAEConfig) -> None:
        super().check(config)
        if config.k != int(config.k):
            raise ConfigError(
                f"--sae.k {config.k:g} was given with --sae.kind {config.kind}, but TopK keeps a "
                "whole number of features per activation; round it, or take --sae.kind batch-topk."
            )

    def activate(self, pre: Tensor) -> Tensor:
        value, index = pre.topk(int(self.k), dim=1, sorted=False)
        return torch.zeros_like(pre).scatter(1, index, torch.relu(value))

    def active(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        k = int(self.k)
        index = pre.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
        row = torch.arange(len(pre), device=pre.device).repeat_interleave(k)
        return row, index.flatten()

    def prefiltered(self, prefilter: Prefilter) -> tuple[Tensor, Tensor, Tensor]:
        k, (batch, d_sae) = int(self.k), prefilter.approximate.shape
        about, near = prefilter.approximate.topk(min(d_sae, 2 * k + SPARE), dim=1, sorted=False)
        near = near.sort(dim=1).values
        row = torch.arange(batch, device=near.device).repeat_interleave(near.shape[1])
        exact = prefilter.exact(row, near.flatten()).view_as(near)
        kept = exact.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
        index, value = near.gather(1, kept), exact.gather(1, kept)
        # A feature that was ruled out has at most this.
        ruled_out = prefilter.upper(about.amin(1), prefilter.error)
        unsure = (~(value.amin(1) > ruled_out)).nonzero().squeeze(1)
        if near.shape[1] < d_sae and unsure.numel():
            pre = torch.addmm(prefilter.b, prefilter.x[unsure], prefilter.W.T)
            index[unsure] = pre.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
            value[unsure] = pre.gather(1, index[unsure])
        row = torch.arange(batch, device=near.device).repeat_interleave(k)
        return row, index.flatten(), value.flatten()
