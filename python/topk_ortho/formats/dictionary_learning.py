"""A trained SAE in the layout of dictionary_learning: `config.json` and `ae.pt`.

That package's `load_dictionary(folder, device)` loads it. `ae.pt` is a pickle, the only one that
this package reads, and only where the user says so; even then torch unpickles nothing but tensors
(`weights_only`). Writing it stores a plain dictionary of tensors.

| `dict_class` | kind | tensors |
|---|---|---|
| `AutoEncoderTopK` | `topk` | `encoder.*`, `decoder.weight`, `b_dec`, `k`, `threshold` |
| `BatchTopKSAE` | `batch-topk` | the same; `relu(pre) * (relu(pre) > threshold)` |
| `MatryoshkaBatchTopKSAE` | `matryoshka` | `W_enc`, ..., `k`, `threshold`, `group_sizes` |
| `JumpReluAutoEncoder` | `jumprelu` | `W_enc`, ..., `threshold`; `b_dec` is not taken off |
| `AutoEncoder` | `relu` | `encoder.*`, `decoder.weight`, `bias`; norms folded when it is loaded |
| `AutoEncoderNew` | `relu` | `encoder.*`, `decoder.*`; the decoder's bias is not taken off |

`encoder.weight` is `[d_sae, d_in]` and `decoder.weight` `[d_in, d_sae]`. A threshold below 0 means
none; ours is 0 then, which keeps the same codes. `GatedAutoEncoder` has two encoders: refused.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topk_ortho.checkpoint import atomic
from topk_ortho.checkpoint.folders import plain, write_folder
from topk_ortho.config import ConfigError
from topk_ortho.config.registry import ARCHITECTURES
from topk_ortho.formats.saelens.layout import (
    architecture_of,
    check_shapes,
    check_tensors,
    checked_prefixes,
    one_number,
)
from topk_ortho.formats.stored import (
    StoredSAE,
    folded_norms,
    learned,
    of_one_dtype,
    with_centring,
    without_centring,
)

CONFIG, WEIGHTS = "config.json", "ae.pt"

KINDS = {
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batch-topk",
    "MatryoshkaBatchTopKSAE": "matryoshka",
    "JumpReluAutoEncoder": "jumprelu",
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
}
_TRAINERS = {
    "AutoEncoderTopK": "TopKTrainer",
    "BatchTopKSAE": "BatchTopKTrainer",
    "MatryoshkaBatchTopKSAE": "MatryoshkaBatchTopKTrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
    "AutoEncoder": "StandardTrainer",
    "AutoEncoderNew": "StandardTrainerAprilUpdate",
}
_LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
_BIAS = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}  # others: b_dec
_WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")


def read(folder: Path, *, allow_pickle: bool = False) -> StoredSAE:
    """Read a folder that `trainSAE` or `write` wrote.

    Args:
        folder: with `config.json` and `ae.pt`.
        allow_pickle: whether `ae.pt` may be unpickled; only tensors are read from it.

    Raises:
        ConfigError: not allowed, no such SAE, damaged, or one that we do not compute.
    """
    folder = atomic.existing(Path(folder))
    if not allow_pickle:
        raise ConfigError(
            f"{folder / WEIGHTS} is a pickle, which is not opened unless you say so; add "
            "--allow-pickle (in Python allow_pickle=True) if you trust where it came from"
        )
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        raw = (folder / WEIGHTS).read_bytes()
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{folder} is not a readable SAE of dictionary_learning ({error}); expected {CONFIG} "
            f"and {WEIGHTS}"
        ) from error
    trainer = _trainer(folder, config)
    name = trainer["dict_class"]
    tensors = _tensors(folder / WEIGHTS, raw)
    k = _k(folder, trainer, tensors)
    ours = _ours(folder, name, tensors)
    check_tensors(ours, architecture=architecture_of(KINDS[name]), k=k)
    groups = tensors.get("group_sizes")
    return StoredSAE(
        layout="dictionary-learning",
        kind=KINDS[name],
        k=k,
        prefixes=()
        if groups is None
        else checked_prefixes(groups.cumsum(0).tolist(), d_sae=len(ours["b_enc"])),
        hook=_hook(trainer),
        model=str(trainer.get("lm_name") or ""),
        context=_context(config),
        settings=config,
        W_enc=ours["W_enc"],
        b_enc=ours["b_enc"],
        W_dec=ours["W_dec"],
        b_dec=ours["b_dec"],
        threshold=ours.get("threshold"),
    )


def write(sae: StoredSAE, folder: Path) -> Path:
    """Write an SAE as `load_dictionary` reads it, in one step.

    A BatchTopK SAE with a threshold for each feature, or with a k that is no whole number, becomes
    a `JumpReluAutoEncoder`, which has the same codes.

    Raises:
        ConfigError: a folder that holds anything else.
    """
    name = _class_for(sae)
    dtype = sae.W_enc.dtype
    tensors = {key: plain(t, dtype) for key, t in _theirs(sae, name).items()} | _numbers(sae, name)
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    config = dict(sae.settings) if sae.layout == "dictionary-learning" else {}
    config["trainer"] = _new_trainer(sae, name, config.get("trainer") or {})
    text = json.dumps(config, indent=4).encode()
    return write_folder(folder, {WEIGHTS: buffer.getvalue(), CONFIG: text})


def _tensors(path: Path, raw: bytes) -> dict[str, Tensor]:
    try:
        tensors = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # torch passes on whatever error the unpickler raises
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{path} is not a dictionary of tensors ({reason}); nothing else is read from a pickle"
        ) from error
    if not isinstance(tensors, dict) or not all(map(torch.is_tensor, tensors.values())):
        raise ConfigError(
            f"{path} is not a dictionary of tensors; nothing else is read from a pickle"
        )
    return tensors


def _trainer(folder: Path, config: Any) -> dict[str, Any]:
    trainer = config.get("trainer") if isinstance(config, dict) else None
    name = trainer.get("dict_class") if isinstance(trainer, dict) else None
    if name not in KINDS:
        raise ConfigError(
            f"{folder / CONFIG} has trainer.dict_class = {name!r}; expected one of "
            f"{', '.join(KINDS)}"
        )
    assert isinstance(trainer, dict)
    return trainer


def _hook(trainer: dict[str, Any]) -> str:
    """The hook point as TransformerLens names it; `submodule_name` is free text there."""
    name = str(trainer.get("submodule_name") or "")
    if re.match(r"blocks\.\d+\.", name):
        return name
    found = re.fullmatch(r"(resid_pre|resid_post|mlp_out|attn_out|attention_out)_layer_(\d+)", name)
    if found is None:
        return ""
    place = found[1].replace("attention_out", "attn_out")
    return f"blocks.{found[2]}.hook_{place}"


def _context(config: dict[str, Any]) -> int | None:
    buffer = config.get("buffer")
    length = buffer.get("ctx_len") if isinstance(buffer, dict) else None
    return length if type(length) is int else None


def _k(folder: Path, trainer: dict[str, Any], tensors: dict[str, Tensor]) -> float | None:
    k = trainer.get("k", trainer.get("target_l0"))
    if "k" not in tensors:
        return k
    stored = one_number("k", tensors["k"])
    if k not in (None, stored):
        raise ConfigError(
            f"{folder} has k = {k} in {CONFIG} and {stored} in {WEIGHTS}; correct the one"
        )
    return stored


def _ours(folder: Path, name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights and threshold by our names and orientation, and with `b_dec` taken off first."""
    kind, linear = KINDS[name], name not in ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder")
    names = dict(_LINEAR) if linear else {n: n for n in _WEIGHTS}
    names[_BIAS.get(name, "b_dec")] = "b_dec"
    thresholded = ARCHITECTURES[kind].inference == "threshold"
    needed = {*names, *(["threshold"] if thresholded else [])}
    if needed - set(tensors):
        raise ConfigError(
            f"{folder / WEIGHTS} holds {sorted(tensors)}, but {sorted(needed - set(tensors))} is "
            f"missing for the {name} that {CONFIG} names"
        )
    out = {ours: tensors[theirs] for theirs, ours in names.items()}
    if linear:
        out |= {"W_enc": out["W_enc"].T, "W_dec": out["W_dec"].T}
    check_shapes(out)
    if thresholded:
        # pre has to exceed 0 as well: it has gone through a relu
        threshold = tensors["threshold"].clamp(min=0)
        if threshold.numel() == 1:
            threshold = threshold.reshape(()).expand(len(out["b_enc"]))
        out["threshold"] = threshold
    if name in ("JumpReluAutoEncoder", "AutoEncoderNew"):
        out["b_enc"] = with_centring(out["W_enc"], out["b_enc"], out["b_dec"])
    if name == "AutoEncoder" and not _unit(out["W_dec"]):
        out |= folded_norms(out, out["W_dec"].double().norm(dim=1).clamp(min=1e-30))
    return {key: tensor.contiguous() for key, tensor in of_one_dtype(out).items()}


def _unit(W_dec: Tensor) -> bool:
    """Returns whether `AutoEncoder.normalize_decoder` leaves the rows unchanged."""
    norms = W_dec.norm(dim=1)
    return torch.allclose(norms, torch.ones_like(norms))


def _class_for(sae: StoredSAE) -> str:
    inference = ARCHITECTURES[sae.kind].inference
    if inference == "relu":
        before = (sae.settings.get("trainer") or {}).get("dict_class")
        return (
            "AutoEncoder" if _unit(sae.W_dec) and before != "AutoEncoderNew" else "AutoEncoderNew"
        )
    same = next((name for name, kind in KINDS.items() if kind == sae.kind), None)
    if inference == "topk":
        return same or "AutoEncoderTopK"
    assert sae.threshold is not None
    if sae.k is None or not float(sae.k).is_integer() or learned(sae.threshold):
        return "JumpReluAutoEncoder"
    return same or "JumpReluAutoEncoder"


def _theirs(sae: StoredSAE, name: str) -> dict[str, Tensor]:
    """The weights by the names and in the orientation of the class."""
    b_enc = sae.b_enc
    if name in ("JumpReluAutoEncoder", "AutoEncoderNew"):
        b_enc = without_centring(sae.W_enc, b_enc, sae.b_dec)
    ours = {"W_enc": sae.W_enc, "b_enc": b_enc, "W_dec": sae.W_dec}
    if name in ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"):
        return ours | {"b_dec": sae.b_dec}
    linear = {theirs: ours[our] for theirs, our in _LINEAR.items()}
    linear |= {key: linear[key].T for key in ("encoder.weight", "decoder.weight")}
    return linear | {_BIAS.get(name, "b_dec"): sae.b_dec}


def _numbers(sae: StoredSAE, name: str) -> dict[str, Tensor]:
    """Returns `k`, `threshold` and `group_sizes` as the class has them."""
    if name in ("AutoEncoder", "AutoEncoderNew"):
        return {}
    if name == "JumpReluAutoEncoder":
        assert sae.threshold is not None
        return {"threshold": plain(sae.threshold, sae.W_enc.dtype)}
    assert sae.k is not None
    shared = torch.tensor(-1.0) if sae.threshold is None else sae.threshold[0].float().clone()
    out = {"k": torch.tensor(int(sae.k), dtype=torch.int), "threshold": shared}
    if name == "MatryoshkaBatchTopKSAE":
        ends = torch.tensor(sae.prefixes or (sae.d_sae,))
        out["group_sizes"] = ends.diff(prepend=torch.zeros(1, dtype=ends.dtype))
    return out


def _new_trainer(sae: StoredSAE, name: str, before: Mapping[str, Any]) -> dict[str, Any]:
    layer = re.match(r"blocks\.(\d+)\.", sae.hook)
    out: dict[str, Any] = {
        "trainer_class": _TRAINERS[name],
        "layer": int(layer[1]) if layer else 0,
        "lm_name": sae.model,
        "submodule_name": sae.hook or None,
        **before,
        "dict_class": name,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
    }
    if name == "JumpReluAutoEncoder":
        out |= {} if sae.k is None else {"target_l0": sae.k}
    elif name not in ("AutoEncoder", "AutoEncoderNew"):
        out["k"] = int(sae.k or 0)
    if name == "MatryoshkaBatchTopKSAE":
        out["group_sizes"] = _numbers(sae, name)["group_sizes"].tolist()
    return out
