"""ReLU: every positive pre-activation; an L1 term in the loss keeps them few."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.sae.sae import SAE
from topk_ortho.sae.screen import Screen


class ReLUSAE(SAE):
    """The L1 SAE of Bricken et al. 2023, with unit decoder rows."""

    def activate(self, pre: Tensor) -> Tensor:
        return torch.relu(pre)

    def active(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        row, col = (pre > 0).nonzero(as_tuple=True)
        return row, col

    def screened(self, screen: Screen) -> tuple[Tensor, Tensor, Tensor]:
        row, col = (~(screen.rough <= screen.never_positive())).nonzero(as_tuple=True)
        return row, col, screen.exact(row, col)
