"""BatchTopK: the k * batch largest pre-activations of a batch (Bussmann et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.config import SAEConfig
from topk_ortho.sae.largest import largest
from topk_ortho.sae.sae import SAE
from topk_ortho.sae.screen import Screen


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
        flat = pre.flatten()
        index = largest(flat.detach(), self._kept(pre))
        return torch.zeros_like(flat).scatter(0, index, torch.relu(flat[index])).view_as(pre)

    def active(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        return self._entries(largest(pre.flatten(), self._kept(pre)))

    def screened(self, screen: Screen) -> tuple[Tensor, Tensor, Tensor]:
        rough, kept = screen.rough.flatten(), self._kept(screen.rough)
        near = largest(rough, min(rough.numel(), 2 * kept))
        row, col = self._entries(near)
        exact = screen.exact(row, col)
        best = exact.topk(kept, sorted=False).indices.sort().values
        ruled_out = screen.upper(rough[near].amin(), screen.error.amax())
        if len(near) < rough.numel() and not bool(exact[best].amin() > ruled_out):
            pre = torch.addmm(screen.b, screen.x, screen.W.T)
            row, col = self.active(pre)
            return row, col, pre[row, col]
        return row[best], col[best], exact[best]

    def _kept(self, pre: Tensor) -> int:
        """Active entries of a batch."""
        return min(max(1, round(self.config.k * pre.shape[0])), pre.numel())

    def _entries(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """`(row, feature)` in row order, from places in the flattened matrix."""
        place = place.sort().values
        row = torch.div(place, self.d_sae, rounding_mode="floor")
        return row, place - row * self.d_sae

    def inference_code(self, pre: Tensor) -> Tensor:
        return torch.relu(pre) * (pre > self.threshold)

    def thresholds(self) -> Tensor:
        return self.threshold.expand(self.d_sae)
