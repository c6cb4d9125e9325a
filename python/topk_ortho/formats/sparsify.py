"""A trained SAE in the layout of EleutherAI's sparsify: `cfg.json` and `sae.safetensors`.

The package is `eai-sparsify` on PyPI. `SparseCoder.load_from_disk(folder)` loads the folder there.
It knows TopK alone: the k largest of `relu((x - b_dec) @ encoder.weight.T + encoder.bias)`.

| there | shape | here |
|---|---|---|
| `encoder.weight` | `[d_sae, d_in]` | `W_enc`, transposed |
| `encoder.bias` | `[d_sae]` | `b_enc` |
| `W_dec` | `[d_sae, d_in]` | `W_dec` |
| `b_dec` | `[d_in]` | `b_dec` |

Transcoders, skip connections and GroupMax compute something else and are refused.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from topk_ortho.checkpoint import atomic
from topk_ortho.checkpoint.folders import plain, write_folder
from topk_ortho.config import ConfigError
from topk_ortho.config.registry import ARCHITECTURES
from topk_ortho.formats.saelens.layout import check_tensors
from topk_ortho.formats.stored import StoredSAE, of_one_dtype

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"

_ELSEWHERE = {
    "transcode": "a transcoder, which predicts other activations than it reads",
    "skip_connection": "a skip connection beside the features",
    "signed": "features that may be negative",
}
"""Settings that may only be off, and what they are."""

_NAMES = {"encoder.weight", "encoder.bias", "W_dec", "b_dec"}


def read(folder: Path) -> StoredSAE:
    """Read a folder that `SparseCoder.save_to_disk` or `write` wrote.

    Raises:
        ConfigError: no such SAE, damaged, or one that is no TopK SAE.
    """
    folder = atomic.existing(Path(folder))
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        tensors = load((folder / WEIGHTS).read_bytes())
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise ConfigError(
            f"{folder} is not a readable SAE of sparsify ({error}); expected {CONFIG} and {WEIGHTS}"
        ) from error
    _check_config(folder, config)
    if set(tensors) != _NAMES:
        raise ConfigError(f"{folder} holds {sorted(tensors)}, expected {sorted(_NAMES)}")
    ours = of_one_dtype(
        {
            "W_enc": tensors["encoder.weight"].T.contiguous(),
            "b_enc": tensors["encoder.bias"],
            "W_dec": tensors["W_dec"],
            "b_dec": tensors["b_dec"],
        }
    )
    check_tensors(ours, architecture="topk", k=config.get("k"))
    return StoredSAE(
        layout="sparsify",
        kind="topk",
        k=config["k"],
        W_enc=ours["W_enc"],
        b_enc=ours["b_enc"],
        W_dec=ours["W_dec"],
        b_dec=ours["b_dec"],
        hook=_hook(folder.name),
        settings=config,
    )


def _hook(name: str) -> str:
    """The hook point of a folder that `sparsify` named after a layer, as TransformerLens names it;
    empty for any other name."""
    found = re.fullmatch(r"(?:layers|h)\.(\d+)(\.mlp)?", name)
    return f"blocks.{found[1]}.hook_{'mlp_out' if found[2] else 'resid_post'}" if found else ""


def write(sae: StoredSAE, folder: Path) -> Path:
    """Write a TopK SAE as `SparseCoder.load_from_disk` reads it, in one step.

    Raises:
        ConfigError: another architecture, or a folder that holds anything else.
    """
    if ARCHITECTURES[sae.kind].inference != "topk" or sae.k is None:
        raise ConfigError(
            f"this SAE is {sae.kind}, but sparsify knows TopK alone; write it as saelens or "
            "dictionary-learning"
        )
    kept = dict(sae.settings) if sae.layout == "sparsify" else {}
    norms = sae.W_dec.float().norm(dim=1)
    config = {
        "activation": "topk",
        "expansion_factor": max(1, sae.d_sae // sae.d_in),
        "normalize_decoder": bool(((norms - 1).abs() < 0.01).all()),
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        **kept,
        "num_latents": sae.d_sae,
        "k": int(sae.k),
        "d_in": sae.d_in,
    }
    tensors = {
        "encoder.weight": sae.W_enc.T,
        "encoder.bias": sae.b_enc,
        "W_dec": sae.W_dec,
        "b_dec": sae.b_dec,
    }
    weights = save({name: plain(tensor, sae.W_enc.dtype) for name, tensor in tensors.items()})
    return write_folder(folder, {WEIGHTS: weights, CONFIG: json.dumps(config).encode()})


def _check_config(folder: Path, config: Any) -> None:
    if not isinstance(config, dict):
        raise ConfigError(f"{folder / CONFIG} holds no JSON object; expected one of sparsify")
    for name, what in _ELSEWHERE.items():
        if config.get(name):
            raise ConfigError(
                f"{folder} has {name} = {config[name]!r}: {what}; only SAEs without it are opened"
            )
    if config.get("activation", "topk") != "topk":
        raise ConfigError(
            f"{folder} has activation = {config['activation']!r}; expected 'topk', since other "
            "features would fire"
        )
