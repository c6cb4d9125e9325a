"""How often each feature fires: running rates for `child_only`, and who counts as dead."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RATE_DECAY = 0.99


@dataclass
class Firing:
    """Attributes:
    rate: `[d_sae]` float32, moving average of the share of rows a feature is active on.
    silent: `[d_sae]` int64, steps since it last fired.
    """

    rate: Tensor
    silent: Tensor
    started: bool = False

    @classmethod
    def zeros(cls, d_sae: int, device: torch.device) -> Firing:
        return cls(
            torch.zeros(d_sae, device=device),
            torch.zeros(d_sae, dtype=torch.int64, device=device),
        )

    def update(self, counts: Tensor, *, batch: int) -> None:
        """Take in one batch; `counts` `[d_sae]` rows on which each feature is active."""
        now = counts.to(self.rate.dtype) / batch
        if self.started:
            self.rate.mul_(RATE_DECAY).add_(now, alpha=1 - RATE_DECAY)
        else:
            self.rate.copy_(now)
            self.started = True
        self.silent.add_(1).masked_fill_(counts > 0, 0)

    def dead(self, after: int) -> Tensor:
        """`[n_dead]` int64: features silent for more than `after` steps."""
        return (self.silent > after).nonzero().squeeze(1)
