"""What every architecture shares: weights, decoding, and decoder rows of unit norm."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from topk_ortho.config import SAEConfig
from topk_ortho.sae.screen import Screen
from topk_ortho.sparse.codes import Codes
from topk_ortho.sparse.products import Decode, Encode


class Forward(NamedTuple):
    """One pass over a batch.

    Attributes:
        pre: `[batch, d_sae]` encoder pre-activations; without a gradient on the sparse path, and
            rough ones in bfloat16 where they were screened.
        code: the code that gradients go through: `[batch, d_sae]`, or on the sparse path `[nnz]`
            in the order of `codes`.
        codes: its active entries, detached.
        x_hat: reconstructions, each `[batch, d_in]`; the last one is the SAE's, Matryoshka puts
            those of its shorter prefixes before.
    """

    pre: Tensor
    code: Tensor
    codes: Codes
    x_hat: tuple[Tensor, ...]


# Below this share of active entries the sparse path is the faster one.
SPARSE_DENSITY = 0.02


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
        encoder = self.W_dec.detach().clone().T  # a feature's weights lie side by side
        self.W_enc = nn.Parameter(encoder if self.expects_sparse else encoder.contiguous())
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @property
    def expects_sparse(self) -> bool:
        """Whether the mean L0 aimed at makes the sparse path the faster one."""
        return self.config.k < SPARSE_DENSITY * self.d_sae

    def pre_acts(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """`(x - b_dec) @ W_enc + b_enc`, `[batch, d_sae]`, or of some `features` only."""
        if features is None:
            return torch.addmm(self.b_enc, x - self.b_dec, self.W_enc)
        return torch.addmm(self.b_enc[features], x - self.b_dec, self.W_enc[:, features])

    def activate(self, pre: Tensor) -> Tensor:
        """The training code of `pre` `[batch, d_sae]`."""
        raise NotImplementedError

    def active(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        """`(row, feature)` `[nnz]` of the entries that `activate` keeps, in row order."""
        raise NotImplementedError

    def screened(self, screen: Screen) -> tuple[Tensor, Tensor, Tensor]:
        """`(row, feature, pre-activation)` `[nnz]` of the same entries, from a rough product."""
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

    def sparse_reconstructions(
        self, value: Tensor, codes: Codes, pre: Tensor
    ) -> tuple[Tensor, ...]:
        """The same from the active entries alone; `value` `[nnz]` carries the gradient."""
        decoded = Decode.apply(value, self.W_dec, codes.crow, codes.row, codes.col)
        return (decoded + self.b_dec,)

    def forward(self, x: Tensor, *, sparse: bool = False) -> Forward:
        """The training pass over `x` `[batch, d_in]`, on the sparse or on the dense path."""
        if not sparse:
            pre = self.pre_acts(x)
            acts = self.activate(pre)
            row, col = acts.detach().nonzero(as_tuple=True)
            value = acts.detach()[row, col]
            codes = Codes.from_entries(row, col, value, batch=len(x), d_sae=self.d_sae)
            return Forward(pre, acts, codes, self.reconstructions(acts))
        with torch.no_grad():
            pre, row, col, at = self._sparse_pre_acts(x)
            keep = ~(at <= 0)  # a NaN stays, and stops the run
            if not bool(keep.all()):
                row, col, at = row[keep], col[keep], at[keep]
        value = Encode.apply(x, self.b_dec, self.W_enc, self.b_enc, at, row, col)
        codes = Codes.from_entries(row, col, value.detach(), batch=len(x), d_sae=self.d_sae)
        return Forward(pre, value, codes, self.sparse_reconstructions(value, codes, pre))

    def _sparse_pre_acts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pre-activations `[batch, d_sae]`; row, feature and value `[nnz]` of the active ones."""
        if self.config.products == "bfloat16":
            screen = Screen.of(x - self.b_dec, self.W_enc.T.contiguous(), self.b_enc)
            return screen.rough, *self.screened(screen)
        pre = self.pre_acts(x)
        row, col = self.active(pre)
        return pre, row, col, pre[row, col]

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
