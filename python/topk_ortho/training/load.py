"""`load_sae`: a trained SAE from a run folder, or from a folder that SAELens wrote."""

from __future__ import annotations

from pathlib import Path

import torch

from topk_ortho.checkpoint import saelens
from topk_ortho.config import SAEConfig
from topk_ortho.sae import SAE, build
from topk_ortho.sae.batch_topk import BatchTopKSAE
from topk_ortho.sae.jumprelu import JumpReLUSAE


def load_sae(folder: str | Path) -> SAE:
    """The SAE of a finished run (or of its `sae/` folder), in the units of the model.

    Raises:
        ConfigError: no SAE there, or one that computes something this package has no module for.
    """
    path = Path(folder)
    stored = saelens.read(path / "sae" if (path / "sae").is_dir() else path)
    k = float(stored["k"] or min(8, stored["d_sae"]))
    prefixes = tuple(stored["metadata"].get("prefixes") or ())
    config = SAEConfig(kind=stored["kind"], d_sae=stored["d_sae"], k=k, prefixes=prefixes)
    sae = build(config, d_in=stored["d_in"], seed=0)
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            getattr(sae, name).copy_(stored[name])
    if isinstance(sae, BatchTopKSAE):
        sae.threshold = stored["threshold"].float()
    if isinstance(sae, JumpReLUSAE):
        with torch.no_grad():
            sae.log_threshold.copy_(stored["threshold"].double().log())
    return sae
