"""An SAE in SAELens' layout read back, with what it adds at inference folded into the weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from topk_ortho.checkpoint import atomic
from topk_ortho.config import ConfigError
from topk_ortho.config.registry import ARCHITECTURES
from topk_ortho.formats.saelens.layout import (
    CONFIG,
    IN_TRAINING,
    KINDS,
    OURS,
    PLAIN,
    SHA256,
    SWITCHES,
    TRANSCODERS,
    WEIGHTS,
    architecture_of,
    check_shapes,
    check_tensors,
    checked_prefixes,
    one_number,
)
from topk_ortho.formats.saelens.metadata import processing
from topk_ortho.formats.stored import StoredSAE, folded_norms, learned, of_one_dtype, with_centring


def read(folder: Path) -> dict[str, Any]:
    """Read an SAE back: one of ours, or one of SAELens that computes the same.

    Returns:
        `kind`, `transcoder`, `k` (None where unknown), `d_in`, `d_sae`, `dtype`, `hook`, `model`,
        `metadata` (all of SAELens' metadata), `config` (the whole of `cfg.json`), and the tensors
        `W_enc`, `b_enc`, `W_dec`, `b_dec`, `threshold` (None unless jumprelu) in the stored dtype
        on CPU.

    Raises:
        ConfigError: no such SAE, damaged, or one with settings that we do not compute.
    """
    folder = atomic.existing(Path(folder))
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        raw = (folder / WEIGHTS).read_bytes()
        tensors = load(raw)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise ConfigError(
            f"{folder} is not a readable SAE ({error}); expected {CONFIG} and {WEIGHTS}"
        ) from error
    metadata = _read_config(folder, config)
    if config.get(SHA256) not in (None, hashlib.sha256(raw).hexdigest()):
        raise ConfigError(f"{folder / WEIGHTS} is not the file that {CONFIG} was written for")
    tensors = _as_inference(folder, config, tensors)
    kind, k = _kind_and_k(config, metadata, tensors)
    transcoder = config["architecture"] in TRANSCODERS
    check_tensors(tensors, architecture=architecture_of(kind), k=k, transcoder=transcoder)
    d_in, d_sae = tensors["W_enc"].shape
    return {
        "kind": kind,
        "transcoder": transcoder,
        "k": k,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": str(tensors["W_enc"].dtype).removeprefix("torch."),
        "hook": metadata.get("hook_name") or "",
        "model": metadata.get("model_name") or "",
        "metadata": metadata,
        "config": config,
        "threshold": None,
        **tensors,
    }


def read_stored(folder: Path) -> StoredSAE:
    """`read` in the form that all layouts share."""
    got = read(folder)
    prefixes = got["metadata"].get("prefixes") or got["config"].get("matryoshka_widths") or ()
    return StoredSAE(
        layout="saelens",
        prefixes=checked_prefixes(prefixes, d_sae=got["d_sae"]),
        settings=got["config"],
        kind=got["kind"],
        k=got["k"],
        W_enc=got["W_enc"],
        b_enc=got["b_enc"],
        W_dec=got["W_dec"],
        b_dec=got["b_dec"],
        threshold=got["threshold"],
        hook=got["hook"],
        model=got["model"],
        context=_or_none(got["metadata"].get("context_size"), int),
        prepend_bos=_or_none(got["metadata"].get("prepend_bos"), bool),
        processing=processing(got["metadata"]),
        transcoder=got["transcoder"],
        hook_out=_or_none(got["metadata"].get("hook_name_out"), str) or "",
    )


def _or_none(value: Any, kind: type) -> Any:
    return value if type(value) is kind else None


def _read_config(folder: Path, config: Any) -> dict[str, Any]:
    """Metadata of a configuration that means what we compute."""
    metadata = config.get("metadata") if isinstance(config, dict) else None
    if not isinstance(metadata, dict) or not _is_version_6(metadata.get("sae_lens_version")):
        raise ConfigError(
            f"{folder / CONFIG} has no metadata of a version from 6.0, but the layout of SAELens 6 "
            "or later was expected; load it with SAELens 6 and save it again"
        )
    known = (*KINDS, *IN_TRAINING, *TRANSCODERS)
    if config.get("architecture") not in known:
        raise ConfigError(
            f"{folder} has the architecture {config.get('architecture')!r}; expected one of "
            f"{', '.join(known)}"
        )
    for name in ("model_name", "hook_name"):
        if not isinstance(metadata.get(name) or "", str):
            raise ConfigError(f"{folder} has {name} = {metadata[name]!r}; expected a name")
    for name in SWITCHES:
        if not isinstance(config.get(name, False), bool):
            raise ConfigError(f"{folder} has {name} = {config[name]!r}; expected true or false")
    for name, values in PLAIN.items():
        value = values[0]
        if config.get(name, value) not in values:
            raise ConfigError(
                f"{folder} has {name} = {config[name]!r}; only {value!r} is computed here, so it "
                "would give other codes; fold it into the weights first"
            )
    return metadata


def _is_version_6(version: Any) -> bool:
    major = str(version).split(".")[0]
    return major.isdecimal() and int(major) >= 6


def _as_inference(
    folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Tensors by our names, with what SAELens adds at inference folded into them."""
    names = {"W_enc", "b_enc", "W_dec", "b_dec"}
    training = config["architecture"] in IN_TRAINING
    transcoder = config["architecture"] in TRANSCODERS
    if training or _codes_of(config) == "jumprelu":
        names.add("topk_threshold" if training else "threshold")
    if set(tensors) != names:
        raise ConfigError(f"{folder} holds {sorted(tensors)}, expected {sorted(names)}")
    out = dict(tensors)
    shared = one_number("topk_threshold", out.pop("topk_threshold")) if training else None
    check_shapes(out, transcoder=transcoder)
    if config.get("rescale_acts_by_decoder_norm", False):
        out |= folded_norms(out, out["W_dec"].double().norm(dim=1).clamp(min=1e-8))
    if shared is not None:
        out["threshold"] = torch.full_like(out["b_enc"], shared)
    if not transcoder and config.get("apply_b_dec_to_input", True) is False:
        out["b_enc"] = with_centring(out["W_enc"], out["b_enc"], out["b_dec"])
    return of_one_dtype(out)


def _codes_of(config: dict[str, Any]) -> str:
    """Returns the architecture with the same codes that is no transcoder."""
    return TRANSCODERS.get(config["architecture"], config["architecture"])


def _kind_and_k(
    config: dict[str, Any], metadata: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[str, float | None]:
    """Returns the kind of the SAE: the one noted, or the one of its architecture and thresholds."""
    architecture = _codes_of(config)
    if architecture in IN_TRAINING:
        return IN_TRAINING[architecture], config.get("k")
    ours = metadata.get(OURS)
    ours = ours if isinstance(ours, dict) else {}
    own = ours.get("kind")
    if isinstance(own, str) and own in ARCHITECTURES and architecture_of(own) == architecture:
        return own, config.get("k", ours.get("k"))
    kind = KINDS[architecture]
    if kind == "jumprelu" and not learned(tensors["threshold"]):
        kind = "batch-topk"
    return kind, config.get("k")
