"""`load_sae`: a trained SAE from a run folder, or from the folder of another package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from topk_ortho import formats
from topk_ortho.config import SAEConfig
from topk_ortho.config.settings import unchecked
from topk_ortho.formats.stored import StoredSAE, with_centring
from topk_ortho.sae import SAE, build


def load_sae(folder: str | Path, *, allow_pickle: bool = False) -> SAE:
    """Returns the SAE of a finished run, or of a folder of another package's layout.

    Args:
        folder: its layout is recognised by its files (`formats/__init__.py`).
        allow_pickle: dictionary_learning stores a pickle, which is opened only if you say so;
            only tensors are read from it.

    Returns:
        The SAE in the units of its model, float32, in eval mode.

    Raises:
        ConfigError: no SAE there, or one that computes something this package has no module for.
    """
    return as_module(formats.read(folder, allow_pickle=allow_pickle)).eval()


def as_module(stored: StoredSAE) -> SAE:
    """Returns the module with the stored codes and reconstructions, in the stored units.

    Its `config.k` is None where the files do not say k; `encode` and `decode` need none, and a
    training pass that does says so.
    """
    k = None if stored.k is None else float(stored.k)
    known = {"kind": stored.kind, "d_sae": stored.d_sae, "k": k, "prefixes": stored.prefixes}
    config = unchecked(SAEConfig, known)
    sae = build(config, d_in=stored.d_in, d_out=stored.d_out if stored.transcoder else None, seed=0)
    fill(sae, stored)
    if stored.threshold is not None:
        sae.load_thresholds_(stored.threshold)
    return sae


@torch.no_grad()
def fill(sae: SAE, stored: StoredSAE) -> None:
    """Copy what an SAE learns: weights, and thresholds where they are trained.

    A transcoder keeps what it takes off its input, and `b_enc` makes up for that.
    """
    if sae.b_in is not None:
        b_enc = with_centring(stored.W_enc, stored.b_enc, sae.b_in.to(stored.W_enc))
        stored = replace(stored, b_enc=b_enc)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        getattr(sae, name).copy_(getattr(stored, name))
    if sae.learns_thresholds and stored.threshold is not None:
        sae.load_thresholds_(stored.threshold)
