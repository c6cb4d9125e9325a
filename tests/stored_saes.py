"""SAEs with random weights, and the codes that the definitions give for them."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.formats.stored import StoredSAE

KINDS = ("topk", "batch-topk", "matryoshka", "jumprelu", "relu")
D_IN, D_SAE, K = 6, 20, 3


def stored(kind: str, *, seed: int = 0, unit: bool = True, k: float | None = K) -> StoredSAE:
    """An SAE of one kind, about `K` of whose `D_SAE` features fire on `rows`."""
    rng = torch.Generator().manual_seed(seed)
    W_dec = torch.randn(D_SAE, D_IN, generator=rng)
    if unit:
        W_dec /= W_dec.norm(dim=1, keepdim=True)
    threshold = None
    if kind == "jumprelu":
        threshold = 1 + torch.rand(D_SAE, generator=rng)
    elif kind in ("batch-topk", "matryoshka"):
        threshold = torch.full((D_SAE,), 1.25)
    return StoredSAE(
        layout="saelens",
        kind=kind,
        k=k,
        W_enc=(W_dec + 0.1 * torch.randn(D_SAE, D_IN, generator=rng)).T.contiguous(),
        b_enc=0.1 * torch.randn(D_SAE, generator=rng),
        W_dec=W_dec,
        b_dec=torch.randn(D_IN, generator=rng),
        threshold=threshold,
        prefixes=(4, 12, D_SAE) if kind == "matryoshka" else (),
        hook="blocks.3.hook_resid_post",
        model="tiny",
    )


def rows(n: int = 64) -> Tensor:
    """`[n, D_IN]` activations."""
    return 1.5 * torch.randn(n, D_IN, generator=torch.Generator().manual_seed(1))


def codes(sae: StoredSAE, x: Tensor) -> Tensor:
    """`[n, D_SAE]` by the definition in `formats/stored.py`."""
    pre = (x - sae.b_dec.float()) @ sae.W_enc.float() + sae.b_enc.float()
    if sae.kind == "topk":
        assert sae.k is not None
        keep = torch.zeros_like(pre).scatter_(1, pre.topk(int(sae.k)).indices, 1.0)
        return pre.relu() * keep
    return pre.relu() if sae.threshold is None else pre.relu() * (pre > sae.threshold)


def reconstruction(sae: StoredSAE, acts: Tensor) -> Tensor:
    """`[n, D_IN]`."""
    return acts @ sae.W_dec.float() + sae.b_dec.float()
