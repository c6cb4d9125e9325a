"""Gemma Scope as published: JumpReLU SAEs and transcoders, read only.

| release | files | tensors |
|---|---|---|
| 1 (Gemma 2) | `params.npz` | `W_enc`, `b_enc`, `W_dec`, `b_dec`, `threshold` |
| 2 (Gemma 3) | `config.json`, `params.safetensors` | the same, with a small `w` |

Both compute `pre = x @ W_enc + b_enc`, `codes = relu(pre) * (pre > threshold)` and
`codes @ W_dec + b_dec`: the encoder does not take `b_dec` off, which goes into `b_enc` here. Files
of release 1 say nothing else: model, layer, place, mean L0, and whether it is a transcoder are read
from the names of the folders, such as `gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82`.
Keep these names. Scaling factors, skip connections, cross-layer transcoders and SAEs of embeddings
compute something else and are refused.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from topk_ortho.checkpoint import atomic
from topk_ortho.config import ConfigError
from topk_ortho.formats.saelens.layout import check_tensors
from topk_ortho.formats.stored import StoredSAE, of_one_dtype, with_centring

FILE = "params.npz"
CONFIG, FILE_2 = "config.json", "params.safetensors"
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")

_MODEL = re.compile(r"gemma-scope-(\d+b)-(pt|it)")
_PLACES = {
    "res": "hook_resid_post",
    "mlp": "hook_mlp_out",
    "resid_post": "hook_resid_post",
    "mlp_out": "hook_mlp_out",
}
"""Hook points by the names of folders; attention's are of a shape that no hook point here has."""


def read(folder: Path) -> StoredSAE:
    """Read a folder with `params.npz`.

    Raises:
        ConfigError: no such SAE, damaged, or one that computes something else.
    """
    folder = atomic.existing(Path(folder))
    try:
        with np.load(folder / FILE, allow_pickle=False) as data:
            arrays = {_named(name): torch.from_numpy(np.array(data[name])) for name in data.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"{folder / FILE} is not a readable file of Gemma Scope ({error}); download it again."
        ) from error
    scaling = arrays.pop("scaling_factor", None)
    if scaling is not None and not bool((scaling == 1).all()):
        raise ConfigError(
            f"{folder} has a scaling_factor, which multiplies what the features reconstruct; only "
            "SAEs without it are opened."
        )
    if "embedding" in _parts(folder):
        raise ConfigError(
            f"{folder} is an SAE of embeddings, which Gemma Scope scaled before training; only "
            "SAEs of other places are opened."
        )
    model = _MODEL.search("/".join(_parts(folder)))
    name = "" if model is None else f"gemma-2-{model[1]}{'-it' if model[2] == 'it' else ''}"
    return _stored(folder, arrays, layout="gemma-scope", model=name, settings={})


def read_2(folder: Path) -> StoredSAE:
    """Read a folder with `config.json` and `params.safetensors`.

    Raises:
        ConfigError: no such SAE, damaged, or one that computes something else.
    """
    folder = atomic.existing(Path(folder))
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        tensors = load((folder / FILE_2).read_bytes())
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise ConfigError(
            f"{folder} is not a readable SAE of Gemma Scope 2 ({error}); expected {CONFIG} and "
            f"{FILE_2}."
        ) from error
    said = config.get("architecture") if isinstance(config, dict) else None
    if said != "jump_relu":
        raise ConfigError(
            f"{folder / CONFIG} has architecture = {said!r}, but 'jump_relu' was expected, since "
            "other features would fire."
        )
    if "affine_skip_connection" in tensors or config.get("affine_connection"):
        raise ConfigError(
            f"{folder} has a skip connection beside the features; only those without are opened."
        )
    tensors = {_named(name): tensor for name, tensor in tensors.items()}
    model = str(config.get("model_name", "")).replace("-v3", "-3")
    return _stored(folder, tensors, layout="gemma-scope-2", model=model, settings=config)


def _named(name: str) -> str:
    return f"W_{name[2:]}" if name.startswith("w_") else name


def _parts(folder: Path) -> list[str]:
    """Names of the folders that a release has, the release itself first."""
    return [part.lower() for part in folder.resolve().parts[-4:]]


def _stored(
    folder: Path, tensors: dict[str, Tensor], *, layout: str, model: str, settings: dict[str, Any]
) -> StoredSAE:
    if set(tensors) != set(NAMES):
        raise ConfigError(f"{folder} holds {sorted(tensors)}, but {sorted(NAMES)} were expected.")
    parts = _parts(folder)
    transcoder = any("transcoder" in part for part in parts)
    tensors = of_one_dtype(tensors)
    l0 = re.search(r"average_l0_(\d+)", parts[-1])
    k = float(l0[1]) if l0 else None
    check_tensors(tensors, architecture="jumprelu", k=k, transcoder=transcoder)
    hook, hook_out = _hooks(parts, transcoder)
    b_enc = tensors["b_enc"]
    if not transcoder:
        b_enc = with_centring(tensors["W_enc"], b_enc, tensors["b_dec"])
    return StoredSAE(
        layout=layout,
        kind="jumprelu",
        k=k,
        W_enc=tensors["W_enc"],
        b_enc=b_enc,
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        threshold=tensors["threshold"],
        hook=hook,
        hook_out=hook_out,
        model=model,
        prepend_bos=True,
        settings=settings,
        transcoder=transcoder,
    )


def _hooks(parts: list[str], transcoder: bool) -> tuple[str, str]:
    """Hook points as TransformerLens names them, empty where the folders do not say."""
    layer = next((m[1] for part in parts if (m := re.match(r"layer_(\d+)", part))), None)
    if layer is None:
        return "", ""
    if transcoder:
        return f"blocks.{layer}.ln2.hook_normalized", f"blocks.{layer}.hook_mlp_out"
    words = [word for part in parts for word in (part, part.rpartition("-")[2])]
    place = next((_PLACES[word] for word in reversed(words) if word in _PLACES), None)
    return (f"blocks.{layer}.{place}" if place else ""), ""
