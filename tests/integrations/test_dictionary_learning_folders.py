"""dictionary_learning itself: what it saves opens here, what is written here opens there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stored_saes import D_IN, D_SAE, KINDS, K, codes, reconstruction, rows, stored
from topk_ortho import formats, load_sae

REASON = "dictionary_learning is not installed"
theirs_utils = pytest.importorskip("dictionary_learning.utils", reason=REASON)
dictionary = pytest.importorskip("dictionary_learning.dictionary", reason=REASON)
trainers = pytest.importorskip("dictionary_learning.trainers", reason=REASON)
training = pytest.importorskip("dictionary_learning.training", reason=REASON)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@torch.no_grad()
def assert_same(folder: Path, *, kind: str) -> None:
    theirs, _ = theirs_utils.load_dictionary(str(folder), device="cpu")
    ours, x = load_sae(folder, allow_pickle=True), rows()
    acts = theirs.encode(x)
    assert 0 < int((acts > 0).sum()) < acts.numel()
    assert ours.config.kind == kind
    torch.testing.assert_close(ours.encode(x), acts, **CLOSE)
    torch.testing.assert_close(ours.decode(ours.encode(x)), theirs.decode(acts), **CLOSE)


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_ours_opens_there(kind: str, unit: bool, tmp_path: Path) -> None:
    given, x = stored(kind, unit=unit), rows()
    formats.write(given, tmp_path / "sae", layout="dictionary-learning")
    theirs, config = theirs_utils.load_dictionary(str(tmp_path / "sae"), device="cpu")
    acts = theirs.encode(x)
    torch.testing.assert_close(acts, codes(given, x), **CLOSE)
    torch.testing.assert_close(theirs.decode(acts), reconstruction(given, acts), **CLOSE)
    assert config["trainer"]["layer"] == 3
    if kind == "matryoshka":
        assert theirs.group_sizes.tolist() == [4, 8, 8]
    assert_same(tmp_path / "sae", kind=kind)


def test_a_batchtopk_that_they_have_no_class_for_keeps_its_codes(tmp_path: Path) -> None:
    given, x = replace(stored("batch-topk"), k=2.5), rows()
    formats.write(given, tmp_path / "sae", layout="dictionary-learning")
    theirs, _ = theirs_utils.load_dictionary(str(tmp_path / "sae"), device="cpu")
    assert type(theirs).__name__ == "JumpReluAutoEncoder"
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode(x), codes(given, x), **CLOSE)


TRAINERS: dict[str, tuple[str, dict[str, Any]]] = {
    "TopKTrainer": ("topk", {"k": K}),
    "BatchTopKTrainer": ("batch-topk", {"k": K, "threshold_start_step": 0}),
    "MatryoshkaBatchTopKTrainer": (
        "matryoshka",
        {"k": K, "group_fractions": [0.2, 0.4, 0.4], "threshold_start_step": 0},
    ),
    "JumpReluTrainer": ("jumprelu", {"target_l0": K, "sparsity_warmup_steps": 1}),
    "StandardTrainer": ("relu", {"sparsity_warmup_steps": 1}),
    "StandardTrainerAprilUpdate": ("relu", {"sparsity_warmup_steps": 1}),
}


@pytest.mark.parametrize("name", TRAINERS)
def test_what_their_trainer_saved_opens_here(name: str, tmp_path: Path) -> None:
    kind, extra = TRAINERS[name]
    module = {
        "TopKTrainer": "top_k",
        "BatchTopKTrainer": "batch_top_k",
        "MatryoshkaBatchTopKTrainer": "matryoshka_batch_top_k",
        "JumpReluTrainer": "jumprelu",
    }.get(name, "standard")
    trainer = pytest.importorskip(f"dictionary_learning.trainers.{module}", reason=REASON)
    config = {
        "trainer": getattr(trainer, name),
        "steps": 12,
        "activation_dim": D_IN,
        "dict_size": D_SAE,
        "layer": 3,
        "lm_name": "tiny",
        "device": "cpu",
        "warmup_steps": 1,
        "lr": 0.02,
        "seed": 0,
        **extra,
    }
    data = iter([rows(32).roll(step, 0) for step in range(14)])
    training.trainSAE(data, [config], steps=12, save_dir=str(tmp_path), device="cpu")
    assert_same(tmp_path / "trainer_0", kind=kind)
    stored_k = formats.read(tmp_path / "trainer_0", allow_pickle=True).k
    assert stored_k == (None if kind == "relu" else K)


def test_the_older_encoder_without_centring_opens_here(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = dictionary.AutoEncoderNew(D_IN, D_SAE)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    trainer = {"dict_class": "AutoEncoderNew", "activation_dim": D_IN, "dict_size": D_SAE}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer}))
    assert_same(tmp_path, kind="relu")
