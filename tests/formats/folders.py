"""Folders of other packages, built by hand in their published layouts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.stored_saes import D_IN, D_SAE, KINDS, K, stored
from topk_ortho.formats.stored import StoredSAE


def sparsify_folder(folder: Path, sae: StoredSAE, **settings: Any) -> Path:
    """As `SparseCoder.save_to_disk` of eai-sparsify 1.3 writes it."""
    folder.mkdir()
    tensors = {
        "encoder.weight": sae.W_enc.T.contiguous(),
        "encoder.bias": sae.b_enc,
        "W_dec": sae.W_dec,
        "b_dec": sae.b_dec,
    }
    save_file(tensors, folder / "sae.safetensors")
    config = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": D_SAE,
        "k": K,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": D_IN,
        **settings,
    }
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def linear(sae: StoredSAE, bias: str = "b_dec") -> dict[str, Tensor]:
    return {
        "encoder.weight": sae.W_enc.T.contiguous(),
        "encoder.bias": sae.b_enc,
        "decoder.weight": sae.W_dec.T.contiguous(),
        bias: sae.b_dec,
    }


def direct(sae: StoredSAE) -> dict[str, Tensor]:
    return {n: getattr(sae, n) for n in ("W_enc", "b_enc", "W_dec", "b_dec")}


def dictionary_folder(
    folder: Path, dict_class: str, tensors: dict[str, Any], **trainer: Any
) -> Path:
    """As `trainSAE` of dictionary_learning 0.1 writes it."""
    folder.mkdir()
    torch.save(tensors, folder / "ae.pt")
    trainer = {
        "dict_class": dict_class,
        "activation_dim": D_IN,
        "dict_size": D_SAE,
        "lm_name": "tiny",
        **trainer,
    }
    config = {"trainer": trainer, "buffer": {"d_submodule": D_IN}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def dictionary_folders(folder: Path) -> dict[str, tuple[Path, StoredSAE]]:
    """Every class of theirs, with the SAE that it computes."""
    folder.mkdir()
    k, shared = torch.tensor(K, dtype=torch.int), torch.tensor(1.25)
    numbers = {"k": k, "threshold": shared}
    groups = {"group_sizes": torch.tensor([4, 8, 8])}
    of = {kind: stored(kind) for kind in KINDS}
    jump, relu = of["jumprelu"], of["relu"]

    def bare(sae: StoredSAE) -> StoredSAE:  # an encoder that does not take b_dec off
        return replace(sae, b_enc=sae.b_enc - sae.b_dec @ sae.W_enc)

    tensors = {
        "AutoEncoderTopK": (linear(of["topk"]) | numbers, of["topk"]),
        "BatchTopKSAE": (linear(of["batch-topk"]) | numbers, of["batch-topk"]),
        "MatryoshkaBatchTopKSAE": (direct(of["matryoshka"]) | numbers | groups, of["matryoshka"]),
        "JumpReluAutoEncoder": (direct(bare(jump)) | {"threshold": jump.threshold}, jump),
        "AutoEncoder": (linear(relu, "bias"), relu),
        "AutoEncoderNew": (linear(bare(relu), "decoder.bias"), relu),
    }
    trainers = {"JumpReluAutoEncoder": {"target_l0": 3.5}, "AutoEncoder": {}, "AutoEncoderNew": {}}
    return {
        name: (
            dictionary_folder(folder / name, name, given, **trainers.get(name, {"k": K})),
            expected,
        )
        for name, (given, expected) in tensors.items()
    }
