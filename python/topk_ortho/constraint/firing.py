"""Running firing rates of features, for `child_only`, and the features that count as dead."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from topk_ortho.machine.transfer import Copy, Transfer

RATE_DECAY = 0.99


@dataclass
class Firing:
    """Attributes:
    rate: `[d_sae]` float32, moving average of the share of rows a feature is active on.
    silent: `[d_sae]` int64, steps since it last fired.
    threshold: `[d_sae]` float32, moving average of a batch's smallest positive activation;
        0 before a feature fired. Kept only where a criterion asks for it, as is the next.
    energy: `[d_sae]` float32, moving average of the summed squared reconstruction gradient.
    counted: on a GPU, the number of dead features after so many steps, on its way to the host.
    """

    rate: Tensor
    silent: Tensor
    threshold: Tensor
    energy: Tensor
    started: bool = False
    counted: tuple[int, Copy] | None = None

    @classmethod
    def zeros(cls, d_sae: int, device: torch.device) -> Firing:
        return cls(
            torch.zeros(d_sae, device=device),
            torch.zeros(d_sae, dtype=torch.int64, device=device),
            torch.zeros(d_sae, device=device),
            torch.zeros(d_sae, device=device),
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

    def count_dead(self, after: int, transfer: Transfer) -> None:
        """Begin to count what `dead` will return, before the next update, without a wait."""
        if self.silent.is_cuda:
            self.counted = after, transfer.start((self.silent > after).sum())

    def update_threshold(self, least: Tensor) -> None:
        """Take in the smallest activations `[d_sae]` of a batch, infinite for silent features."""
        mixed = torch.lerp(least.float(), self.threshold, RATE_DECAY)
        mixed = torch.where(self.threshold > 0, mixed, least)
        self.threshold.copy_(torch.where(torch.isfinite(least), mixed, self.threshold))

    def update_energy(self, squares: Tensor) -> None:
        """Take in a batch's summed squared gradients `[d_sae]`."""
        self.energy.mul_(RATE_DECAY).add_(squares, alpha=1 - RATE_DECAY)

    def dead(self, after: int) -> Tensor:
        """Returns `[n_dead]` int64: features silent for more than `after` steps."""
        counted, self.counted = self.counted, None
        if counted is not None and counted[0] == after:
            n = int(counted[1].result()[0])
            return torch.nonzero_static(self.silent > after, size=n).squeeze(1)
        return (self.silent > after).nonzero().squeeze(1)
