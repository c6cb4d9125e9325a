"""A trained SAE written as SAELens 6 reads it, in one step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from topk_ortho.checkpoint.folders import plain, write_folder
from topk_ortho.config import ConfigError
from topk_ortho.config.registry import ARCHITECTURES
from topk_ortho.formats.saelens.layout import (
    CONFIG,
    OURS,
    SAELENS_VERSION,
    SHA256,
    WEIGHTS,
    WRITTEN,
    architecture_of,
    check_tensors,
    transcoder_of,
)
from topk_ortho.formats.stored import StoredSAE

_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def export(
    folder: Path,
    *,
    kind: str,
    W_enc: Tensor,
    b_enc: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    threshold: Tensor | None,
    k: float | None,
    hook: str,
    model: str,
    dtype: str = "float32",
    metadata: Mapping[str, Any] | None = None,
    transcoder: bool = False,
) -> Path:
    """Write an SAE for SAELens; an earlier export in the folder is replaced in one step.

    Args:
        folder: becomes a folder of exactly two files.
        kind: one of our architectures.
        W_enc: `[d_in, d_sae]`, for activations as the model gives them (scaling folded in).
        b_enc: `[d_sae]`.
        W_dec: `[d_sae, d_out]`.
        b_dec: `[d_out]`.
        threshold: `[d_sae]` for `jumprelu`, `batch-topk` and `matryoshka`, None for the others.
        k: for `topk` the number of features that fire, a whole number; otherwise kept as the mean
            L0 aimed at.
        hook: hook point such as `blocks.3.hook_resid_post`, empty without a model.
        model: the model's name, empty without one.
        dtype: of the stored weights.
        metadata: JSON, added to SAELens' free metadata (`prepend_bos`, `context_size`, ...).
        transcoder: whether it reconstructs other activations than it reads.

    Raises:
        ConfigError: shapes, values or settings that make no such SAE, a folder that holds
            anything else, or a disk that fails; an earlier export is unchanged then.
    """
    folder = Path(folder)
    tensors = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    if threshold is not None:
        tensors["threshold"] = threshold
    _check_names(kind, dtype)
    check_tensors(tensors, architecture=architecture_of(kind), k=k, transcoder=transcoder)
    weights = save({name: plain(tensor, _DTYPES[dtype]) for name, tensor in tensors.items()})
    config = _config(
        kind,
        d_in=len(W_enc),
        d_out=len(b_dec) if transcoder else None,
        k=k,
        d_sae=len(b_enc),
        dtype=dtype,
        metadata={**(metadata or {}), "model_name": model, "hook_name": hook},
        sha256=hashlib.sha256(weights).hexdigest(),
    )
    try:
        text = json.dumps(config, indent=1, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"metadata cannot be stored as JSON ({error})") from error
    return write_folder(folder, {WEIGHTS: weights, CONFIG: text})


def _check_names(kind: str, dtype: str) -> None:
    if kind not in ARCHITECTURES:
        raise ConfigError(f"kind is {kind!r}, expected one of {', '.join(ARCHITECTURES.names())}")
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype is {dtype!r}, expected one of {', '.join(_DTYPES)}")


def _config(
    kind: str,
    *,
    d_in: int,
    d_out: int | None,
    d_sae: int,
    k: float | None,
    dtype: str,
    metadata: dict[str, Any],
    sha256: str,
) -> dict[str, Any]:
    architecture = architecture_of(kind)
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": dtype,
        "device": "cpu",
        "apply_b_dec_to_input": True,
        **WRITTEN,
        SHA256: sha256,
    }
    if d_out is not None:
        config |= {"architecture": transcoder_of(architecture), "d_out": d_out}
        config["apply_b_dec_to_input"] = False
    if architecture == "topk":
        # SAELens would otherwise rank by pre times the norm of the decoder row.
        config |= {"k": int(k or 0), "rescale_acts_by_decoder_norm": False}
    config["metadata"] = {
        "sae_lens_version": SAELENS_VERSION,
        "sae_lens_training_version": None,
        **metadata,
        OURS: {"kind": kind, "k": k},
    }
    return config


def write_stored(sae: StoredSAE, folder: Path) -> Path:
    """`export` of that form; metadata that SAELens has besides is kept."""
    metadata = dict(sae.settings.get("metadata") or {}) if sae.layout == "saelens" else {}
    metadata |= {"hook_name_out": sae.hook_out} if sae.transcoder else {}
    for name in ("sae_lens_version", "sae_lens_training_version", "prefixes", OURS):
        metadata.pop(name, None)
    return export(
        folder,
        kind=sae.kind,
        W_enc=sae.W_enc,
        b_enc=sae.b_enc,
        W_dec=sae.W_dec,
        b_dec=sae.b_dec,
        threshold=sae.threshold,
        k=sae.k,
        hook=sae.hook,
        model=sae.model,
        dtype=sae.dtype,
        metadata={**metadata, "prefixes": list(sae.prefixes)},
        transcoder=sae.transcoder,
    )
