"""What every architecture shares: weights, decoding, and decoder rows of unit norm."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from topk_ortho.config import SAEConfig


class Forward(NamedTuple):
    """One pass over a batch.

    Attributes:
        pre: `[batch, d_sae]` encoder pre-activations.
        acts: `[batch, d_sae]` sparse code, non-negative.
        x_hat: reconstructions, each `[batch, d_in]`; the last one is the SAE's, Matryoshka puts
            those of its shorter prefixes before.
    """

    pre: Tensor
    acts: Tensor
    x_hat: tuple[Tensor, ...]


class SAE(nn.Module):
    """A sparse autoencoder with unit decoder rows.

    Attributes:
        W_enc: `[d_in, d_sae]`, the decoder's transpose at the start.
        b_enc: `[d_sae]`.
        W_dec: `[d_sae, d_in]`.
        b_dec: `[d_in]`.
    """

    def __init__(self, config: SAEConfig, *, d_in: int, seed: int):
        super().__init__()
        self.config = config
        self.d_in, self.d_sae = d_in, config.d_sae
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(self.d_sae, d_in, generator=generator)
        self.W_dec = nn.Parameter(rows / rows.norm(dim=1, keepdim=True))
        self.W_enc = nn.Parameter(self.W_dec.detach().T.contiguous())
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    def pre_acts(self, x: Tensor) -> Tensor:
        """`(x - b_dec) @ W_enc + b_enc`, `[batch, d_sae]`."""
        return torch.addmm(self.b_enc, x - self.b_dec, self.W_enc)

    def activate(self, pre: Tensor) -> Tensor:
        """The training code of `pre` `[batch, d_sae]`."""
        raise NotImplementedError

    def inference_code(self, pre: Tensor) -> Tensor:
        """The code of `pre` outside training; the same unless an architecture says otherwise."""
        return self.activate(pre)

    def encode(self, x: Tensor) -> Tensor:
        """The code of `x` `[batch, d_in]` outside training, `[batch, d_sae]`."""
        return self.inference_code(self.pre_acts(x))

    def decode(self, acts: Tensor) -> Tensor:
        """`acts @ W_dec + b_dec`, `[batch, d_in]`."""
        return torch.addmm(self.b_dec, acts, self.W_dec)

    def reconstructions(self, acts: Tensor) -> tuple[Tensor, ...]:
        """What the reconstruction loss is taken on, the SAE's own last."""
        return (self.decode(acts),)

    def forward(self, x: Tensor) -> Forward:
        """The training pass over `x` `[batch, d_in]`."""
        pre = self.pre_acts(x)
        acts = self.activate(pre)
        return Forward(pre, acts, self.reconstructions(acts))

    def thresholds(self) -> Tensor | None:
        """`[d_sae]` values that `pre` has to exceed outside training; None where there are none."""
        return None

    @torch.no_grad()
    def remove_parallel_gradient_(self) -> None:
        """Take the part along each decoder row out of its gradient."""
        grad = self.W_dec.grad
        if grad is not None:
            grad.addcmul_(self.W_dec, (grad * self.W_dec).sum(1, keepdim=True), value=-1)

    @torch.no_grad()
    def normalise_decoder_(self) -> None:
        """Bring the decoder rows back to unit norm; a zero row stays zero."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))
