"""What a stored SAE says of the activations that it reads, in every layout."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.formats.folders import dictionary_folder, linear, sparsify_folder
from tests.formats.test_saelens import change, sae
from tests.stored_saes import K, stored
from topk_ortho import formats
from topk_ortho.config import ConfigError
from topk_ortho.formats.saelens import export, read_stored, write_stored


def with_metadata(folder: Path, **metadata: Any) -> Path:
    """One of ours with more metadata, as SAELens writes them."""
    return export(folder, **sae("relu"), metadata=metadata)


PROCESSED = [
    ({"model_from_pretrained_kwargs": {"center_writing_weights": True}},
     "model_from_pretrained_kwargs.center_writing_weights = True"),
    ({"model_from_pretrained_kwargs": {"revision": "step1000"}}, "revision = 'step1000'"),
    ({"model_from_pretrained_kwargs": "fp16"}, "model_from_pretrained_kwargs = 'fp16'"),
    ({"hook_head_index": 3}, "hook_head_index = 3"),
    ({"seqpos_slice": [5, None]}, "seqpos_slice = [5, None]"),
    ({"model_class_name": "HookedMamba"}, "model_class_name = 'HookedMamba'"),
]  # fmt: skip


@pytest.mark.fault("an SAE of activations that are processed otherwise")
@pytest.mark.parametrize(("metadata", "words"), PROCESSED)
def test_activations_that_are_not_those_of_the_model_are_named(
    metadata: dict[str, Any], words: str, tmp_path: Path
) -> None:
    stored = read_stored(with_metadata(tmp_path / "sae", **metadata))
    with pytest.raises(ConfigError, match=re.escape(words)):
        stored.check_unprocessed(tmp_path)
    with pytest.warns(UserWarning, match=re.escape(words)):
        stored.check_unprocessed(tmp_path, insist=True)


@pytest.mark.parametrize(
    "metadata",
    [
        {"model_from_pretrained_kwargs": {"center_writing_weights": False, "dtype": "bfloat16"}},
        {"model_from_pretrained_kwargs": {"fold_ln": True, "fold_value_biases": True}},
        {"hook_head_index": None, "seqpos_slice": [None], "model_class_name": "HookedTransformer"},
        {"exclude_special_tokens": True, "context_size": 128, "prepend_bos": False},
    ],
)
def test_settings_that_change_no_activations_are_kept(
    metadata: dict[str, Any], tmp_path: Path
) -> None:
    stored = read_stored(with_metadata(tmp_path / "sae", **metadata))
    stored.check_unprocessed(tmp_path)
    assert stored.context == metadata.get("context_size")
    assert stored.prepend_bos is metadata.get("prepend_bos")
    again = read_stored(write_stored(stored, tmp_path / "again"))
    assert again.settings["metadata"].items() >= metadata.items()


def test_folded_norms_matter_at_the_hook_that_they_are_folded_from(tmp_path: Path) -> None:
    given = {**sae("relu"), "hook": "blocks.3.ln1.hook_normalized"}
    kwargs = {"model_from_pretrained_kwargs": {"fold_ln": True}}
    stored = read_stored(export(tmp_path / "sae", **given, metadata=kwargs))
    assert stored.processing == ("model_from_pretrained_kwargs.fold_ln = True",)


@pytest.mark.fault("an SAE that computes something else")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor = True"),
        ({"activation_fn": "tanh-relu"}, "activation_fn = 'tanh-relu'"),
    ],
)
def test_settings_of_the_pass_that_are_not_computed_are_refused(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    change(export(tmp_path / "sae", **sae("relu")), **settings)
    with pytest.raises(ConfigError, match=words):
        read_stored(tmp_path / "sae")


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("blocks.3.hook_mlp_out", "blocks.3.hook_mlp_out"),
        ("resid_post_layer_3", "blocks.3.hook_resid_post"),
        ("attention_out_layer_12", "blocks.12.hook_attn_out"),
        ("something", ""),
        (None, ""),
    ],
)
def test_the_hook_of_dictionary_learning_has_the_usual_name(
    name: str | None, hook: str, tmp_path: Path
) -> None:
    folder = dictionary_folder(tmp_path / "sae", "AutoEncoderTopK",
                               linear(stored("topk")) | {"k": torch.tensor(K)}, k=K,
                               submodule_name=name)  # fmt: skip
    assert formats.read(folder, allow_pickle=True).hook == hook


@pytest.mark.parametrize(
    ("name", "hook"),
    [("layers.3", "blocks.3.hook_resid_post"), ("h.2.mlp", "blocks.2.hook_mlp_out"), ("sae", "")],
)
def test_the_hook_of_sparsify_is_that_of_its_folder(name: str, hook: str, tmp_path: Path) -> None:
    assert formats.read(sparsify_folder(tmp_path / name, stored("topk"))).hook == hook
