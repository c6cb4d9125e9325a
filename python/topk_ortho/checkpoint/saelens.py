"""A trained SAE in the layout that SAELens 6 reads: `cfg.json` and `sae_weights.safetensors`.

`export` writes the folder in one step, `read` gives the weights and configuration back and refuses
a folder whose SAE computes something else than ours. `SAE.load_from_disk(folder)` loads it there.

Codes are the same on both sides:

| kind | architecture | codes, with `pre = (x - b_dec) @ W_enc + b_enc` |
|---|---|---|
| `topk` | `topk` | the k largest of `pre`, then relu |
| `relu` | `standard` | `relu(pre)` |
| `jumprelu`, `batch-topk`, `matryoshka` | `jumprelu` | `relu(pre) * (pre > threshold)`, strictly |

A feature whose `pre` equals its threshold is off, here and there. In float32 the weights are stored
bit for bit; a narrower dtype rounds thresholds and weights, so codes near a threshold may change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from topk_ortho.checkpoint import atomic
from topk_ortho.config import ConfigError

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

SAELENS_VERSION = "6.0.0"
"""The release whose layout is written; without it SAELens converts the file as one of before 6."""

Kind = Literal["topk", "relu", "jumprelu", "batch-topk", "matryoshka"]

_ARCHITECTURES = {
    "topk": "topk",
    "relu": "standard",
    "jumprelu": "jumprelu",
    "batch-topk": "jumprelu",
    "matryoshka": "jumprelu",
}
_KINDS = {"topk": "topk", "standard": "relu", "jumprelu": "batch-topk"}
_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_OURS = "topk_ortho"  # our own entry among SAELens' free metadata
_PLAIN = {
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "rescale_acts_by_decoder_norm": False,
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
) -> Path:
    """Write an SAE for SAELens; an earlier export in the folder is replaced in one step.

    Args:
        folder: becomes a folder of exactly two files.
        kind: one of our architectures.
        W_enc: `[d_in, d_sae]`, for activations as the model gives them (scaling folded in).
        b_enc: `[d_sae]`.
        W_dec: `[d_sae, d_in]`.
        b_dec: `[d_in]`.
        threshold: `[d_sae]` for `jumprelu`, `batch-topk` and `matryoshka`, None for the others.
        k: for `topk` the number of features that fire, a whole number; otherwise kept as the mean
            L0 aimed at.
        hook: hook point such as `blocks.3.hook_resid_post`, empty without a model.
        model: the model's name, empty without one.
        dtype: of the stored weights.
        metadata: JSON, added to SAELens' free metadata (`prepend_bos`, `context_size`, ...).

    Raises:
        ConfigError: shapes, values or settings that make no such SAE, a folder that holds
            anything else, or a disk that fails; an earlier export is as it was then.
    """
    folder = Path(folder)
    tensors = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    if threshold is not None:
        tensors["threshold"] = threshold
    if kind not in _ARCHITECTURES:
        raise ConfigError(f"kind is {kind!r}, expected one of {', '.join(get_args(Kind))}")
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype is {dtype!r}, expected one of {', '.join(_DTYPES)}")
    _check(tensors, architecture=_ARCHITECTURES[kind], k=k)
    _check_folder(folder)
    weights = save(
        {n: t.detach().cpu().to(_DTYPES[dtype]).contiguous().clone() for n, t in tensors.items()}
    )
    config = _config(
        kind,
        d_in=len(b_dec),
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
    try:
        with atomic.writing(folder) as directory:
            atomic.write_file(directory / WEIGHTS, weights)
            atomic.write_file(directory / CONFIG, text)
    except OSError as error:
        raise ConfigError(
            f"the SAE could not be written to {folder} ({error}); free disk space or check the "
            "permissions"
        ) from error
    return folder


def _config(
    kind: str,
    *,
    d_in: int,
    d_sae: int,
    k: float | None,
    dtype: str,
    metadata: dict[str, Any],
    sha256: str,
) -> dict[str, Any]:
    architecture = _ARCHITECTURES[kind]
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": dtype,
        "device": "cpu",
        **{name: value for name, value in _PLAIN.items() if name != "rescale_acts_by_decoder_norm"},
    }
    if architecture == "topk":
        # SAELens would otherwise rank by pre times the norm of the decoder row.
        config |= {"k": int(k or 0), "rescale_acts_by_decoder_norm": False}
    config["metadata"] = {
        "sae_lens_version": SAELENS_VERSION,
        "sae_lens_training_version": None,
        **metadata,
        _OURS: {"kind": kind, "k": k, "weights_sha256": sha256},
    }
    return config


def _check(tensors: Mapping[str, Tensor], *, architecture: str, k: float | None) -> None:
    if tensors["W_enc"].ndim != 2:
        raise ConfigError(
            f"W_enc has shape {tuple(tensors['W_enc'].shape)}, expected [d_in, d_sae]"
        )
    d_in, d_sae = tensors["W_enc"].shape
    shapes = {
        "W_enc": (d_in, d_sae),
        "b_enc": (d_sae,),
        "W_dec": (d_sae, d_in),
        "b_dec": (d_in,),
        "threshold": (d_sae,),
    }
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            raise ConfigError(
                f"{name} has shape {tuple(tensor.shape)}, expected {shapes[name]} beside W_enc "
                f"of shape {(d_in, d_sae)}"
            )
        # A feature may be switched off by an infinite threshold.
        bad = tensor.isnan() if name == "threshold" else ~tensor.isfinite()
        if bool(bad.any()):
            raise ConfigError(f"{name} holds a value that is not finite; such an SAE is of no use")
    if (architecture == "jumprelu") != ("threshold" in tensors):
        expected = "a threshold [d_sae]" if architecture == "jumprelu" else "no threshold"
        raise ConfigError(f"the architecture {architecture} takes {expected}")
    if architecture == "topk" and not (k is not None and 1 <= k <= d_sae and float(k).is_integer()):
        raise ConfigError(
            f"k is {k}, but a topk SAE needs a whole number from 1 to {d_sae}; use batch-topk for "
            "a mean L0 that is none"
        )


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; expected a folder for the exported SAE")
    others = {p.name for p in folder.iterdir()} - {CONFIG, WEIGHTS} if folder.exists() else set()
    if others:
        raise ConfigError(
            f"{folder} holds {min(others)!r}, and an export replaces the whole folder; give a new "
            "folder"
        )


def read(folder: Path) -> dict[str, Any]:
    """Read an SAE back: one of ours, or one of SAELens that computes the same.

    Returns:
        `kind`, `k` (None where unknown), `d_in`, `d_sae`, `dtype`, `hook`, `model`, `metadata`
        (all of SAELens' metadata), and the tensors `W_enc`, `b_enc`, `W_dec`, `b_dec`,
        `threshold` (None unless jumprelu) in the stored dtype on CPU.

    Raises:
        ConfigError: no such SAE, damaged, or one with settings that we do not compute.
    """
    folder = atomic.existing(Path(folder))
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        raw = (folder / WEIGHTS).read_bytes()
        tensors = load(raw)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(
            f"{folder} is no readable SAE ({error}); expected {CONFIG} and {WEIGHTS}"
        ) from error
    metadata, ours = _read_config(folder, config)
    if ours.get("weights_sha256") not in (None, hashlib.sha256(raw).hexdigest()):
        raise ConfigError(f"{folder / WEIGHTS} is not the file that {CONFIG} was written for")
    names = {"W_enc", "b_enc", "W_dec", "b_dec"}
    if config["architecture"] == "jumprelu":
        names.add("threshold")
    if set(tensors) != names:
        raise ConfigError(f"{folder} holds {sorted(tensors)}, expected {sorted(names)}")
    k = config.get("k", ours.get("k"))
    _check(tensors, architecture=config["architecture"], k=k)
    d_in, d_sae = tensors["W_enc"].shape
    return {
        "kind": ours.get("kind", _KINDS[config["architecture"]]),
        "k": k,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": str(tensors["W_enc"].dtype).removeprefix("torch."),
        "hook": metadata.get("hook_name") or "",
        "model": metadata.get("model_name") or "",
        "metadata": metadata,
        "threshold": None,
        **tensors,
    }


def _read_config(folder: Path, config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata and our part of it, of a configuration that means what we compute."""
    metadata = config.get("metadata") if isinstance(config, dict) else None
    if not isinstance(metadata, dict):
        raise ConfigError(f"{folder / CONFIG} has no metadata; expected SAELens 6 or later")
    if config.get("architecture") not in _KINDS:
        raise ConfigError(
            f"{folder} has the architecture {config.get('architecture')!r}; expected one of "
            f"{', '.join(_KINDS)}"
        )
    for name, value in _PLAIN.items():
        if config.get(name, value) != value:
            raise ConfigError(
                f"{folder} has {name} = {config[name]!r}; only {value!r} is computed here, so it "
                "would give other codes; fold it into the weights first"
            )
    ours = metadata.get(_OURS, {})
    return metadata, ours if isinstance(ours, dict) else {}
