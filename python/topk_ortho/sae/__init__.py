"""The dictionary: architectures as modules, without losses and without files.

An architecture is a class in its own file with all that is its own: how pre-activations become
codes, its sparsity term, its start, its calibration, its rules and its sizes. Encoder, decoder and
the unit-norm rule are the same for all (`sae.py`).
"""

from __future__ import annotations

from topk_ortho.config import SAEConfig
from topk_ortho.config.registry import ARCHITECTURES
from topk_ortho.sae.batch_topk import BatchTopKSAE
from topk_ortho.sae.jumprelu import JumpReLUSAE
from topk_ortho.sae.matryoshka import MatryoshkaSAE
from topk_ortho.sae.relu import ReLUSAE
from topk_ortho.sae.sae import SAE, Forward
from topk_ortho.sae.topk import TopKSAE


def register_architecture(kind: type[SAE]) -> type[SAE]:
    """Returns `kind`, which `--sae.kind` and `SAEConfig.kind` know by its `name` from then on.

    Can be used as a decorator.

    Raises:
        ValueError: the name is taken, or is not lower-case words joined by hyphens.
    """
    return ARCHITECTURES.register(kind)


for _architecture in (TopKSAE, BatchTopKSAE, ReLUSAE, JumpReLUSAE, MatryoshkaSAE):
    register_architecture(_architecture)


def build(config: SAEConfig, *, d_in: int, seed: int, d_out: int | None = None) -> SAE:
    """Returns a fresh SAE; the same seed gives the same weights in every architecture.

    Args:
        config: architecture and sizes.
        d_in: width of what it reads.
        seed: of its weights.
        d_out: width of what a transcoder reconstructs; an SAE reconstructs its input unless given.
    """
    kind = ARCHITECTURES[config.kind]
    if d_out is None:  # an architecture from outside may know SAEs alone
        return kind(config, d_in=d_in, seed=seed)
    return kind(config, d_in=d_in, seed=seed, d_out=d_out)


__all__ = ["ARCHITECTURES", "SAE", "Forward", "build", "register_architecture"]
