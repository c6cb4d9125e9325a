"""The dictionary: architectures as modules, without losses and without files.

An architecture says which pre-activations become features; encoder, decoder and the unit-norm rule
are the same for all (`sae.py`).
"""

from __future__ import annotations

from topk_ortho.config import SAEConfig
from topk_ortho.sae.batch_topk import BatchTopKSAE
from topk_ortho.sae.jumprelu import JumpReLUSAE
from topk_ortho.sae.matryoshka import MatryoshkaSAE
from topk_ortho.sae.relu import ReLUSAE
from topk_ortho.sae.sae import SAE, Forward
from topk_ortho.sae.topk import TopKSAE

ARCHITECTURES: dict[str, type[SAE]] = {
    "topk": TopKSAE,
    "batch-topk": BatchTopKSAE,
    "relu": ReLUSAE,
    "jumprelu": JumpReLUSAE,
    "matryoshka": MatryoshkaSAE,
}


def build(config: SAEConfig, *, d_in: int, seed: int) -> SAE:
    """A fresh SAE; the same seed gives the same weights in every architecture."""
    return ARCHITECTURES[config.kind](config, d_in=d_in, seed=seed)


__all__ = ["ARCHITECTURES", "SAE", "Forward", "build"]
