"""`load_sae`: a trained SAE from a run folder, or from the folder of another package."""

from __future__ import annotations

from pathlib import Path

import torch

from topk_ortho import formats
from topk_ortho.config import SAEConfig
from topk_ortho.formats.stored import StoredSAE
from topk_ortho.sae import SAE, build
from topk_ortho.sae.batch_topk import BatchTopKSAE
from topk_ortho.sae.jumprelu import JumpReLUSAE

UNKNOWN_K = 8
"""What stands for a mean L0 that is not stored; no code depends on it outside training."""


def load_sae(folder: str | Path, *, allow_pickle: bool = False) -> SAE:
    """The SAE of a finished run, or of a folder of SAELens, dictionary_learning or sparsify.

    Args:
        folder: its layout is told by its files (`formats/__init__.py`).
        allow_pickle: dictionary_learning stores a pickle, which is opened only if you say so;
            nothing but tensors is taken from it.

    Returns:
        The SAE in the units of its model, float32.

    Raises:
        ConfigError: no SAE there, or one that computes something this package has no module for.
    """
    return as_module(formats.read(folder, allow_pickle=allow_pickle))


def as_module(stored: StoredSAE) -> SAE:
    """The module with the stored codes and reconstructions, in the stored units."""
    k = float(stored.k or min(UNKNOWN_K, stored.d_sae))
    config = SAEConfig(kind=stored.kind, d_sae=stored.d_sae, k=k, prefixes=stored.prefixes)  # type: ignore[arg-type]
    sae = build(config, d_in=stored.d_in, seed=0)
    fill(sae, stored)
    if isinstance(sae, BatchTopKSAE):
        assert stored.threshold is not None
        sae.threshold = stored.threshold.float()
    return sae


@torch.no_grad()
def fill(sae: SAE, stored: StoredSAE) -> None:
    """Copy what an SAE learns: weights, and the thresholds of JumpReLU."""
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        getattr(sae, name).copy_(getattr(stored, name))
    if isinstance(sae, JumpReLUSAE):
        assert stored.threshold is not None
        # a feature fires where pre is positive at least; the logarithm has to stay finite
        bounded = stored.threshold.double().clamp(1 / MOST, MOST)
        sae.log_threshold.copy_(bounded.log())


MOST = 1e30
"""A threshold of infinity, or of 0 on the other side, has no logarithm that can be trained."""
