"""What is exported reads back bit for bit; SAELens, where installed, computes the same codes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from topk_ortho.checkpoint import atomic
from topk_ortho.config import ConfigError
from topk_ortho.formats.saelens import WEIGHTS as WEIGHTS_FILE
from topk_ortho.formats.saelens import export, read, read_stored, write_stored

KINDS = ("topk", "relu", "jumprelu", "batch-topk", "matryoshka")
WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
D_IN, D_SAE = 6, 20


def sae(kind: str) -> dict:
    rng = torch.Generator().manual_seed(0)
    jump = kind in ("jumprelu", "batch-topk", "matryoshka")
    return {
        "kind": kind,
        "W_enc": torch.randn(D_IN, D_SAE, generator=rng),
        "b_enc": torch.randn(D_SAE, generator=rng) * 0.1,
        "W_dec": torch.randn(D_SAE, D_IN, generator=rng),  # not unit: the scale is folded in
        "b_dec": torch.randn(D_IN, generator=rng),
        "threshold": torch.rand(D_SAE, generator=rng) if jump else None,
        "k": 3 if kind == "topk" else 2.5,
        "hook": "blocks.3.hook_resid_post",
        "model": "tiny",
    }


def codes(given: dict, x: Tensor) -> Tensor:
    pre = (x - given["b_dec"]) @ given["W_enc"] + given["b_enc"]
    if given["kind"] == "topk":
        keep = torch.zeros_like(pre).scatter_(1, pre.topk(given["k"]).indices, 1.0)
        return pre.relu() * keep
    if given["threshold"] is None:
        return pre.relu()
    return pre.relu() * (pre > given["threshold"])


@pytest.mark.parametrize("kind", KINDS)
def test_reads_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    given = sae(kind)
    folder = export(tmp_path / "sae", **given, metadata={"prepend_bos": True})
    assert sorted(p.name for p in folder.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    got = read(folder)
    for name in WEIGHTS:
        assert got[name] is None if given[name] is None else torch.equal(got[name], given[name])
    for name in ("kind", "k", "hook", "model"):
        assert got[name] == given[name]
    assert (got["d_in"], got["d_sae"], got["dtype"]) == (D_IN, D_SAE, "float32")
    assert got["metadata"]["prepend_bos"] is True


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        ("topk", "topk"),
        ("relu", "standard"),
        ("jumprelu", "jumprelu"),
        ("batch-topk", "jumprelu"),
        ("matryoshka", "jumprelu"),
    ],
)
def test_the_configuration_is_that_of_saelens_6(
    kind: str, architecture: str, tmp_path: Path
) -> None:
    config = json.loads((export(tmp_path / "sae", **sae(kind)) / "cfg.json").read_text())
    assert config["architecture"] == architecture
    assert config["apply_b_dec_to_input"] is True
    assert config["normalize_activations"] == "none"
    assert config["metadata"]["sae_lens_version"] == "6.0.0"
    assert config["metadata"]["hook_name"] == "blocks.3.hook_resid_post"
    assert (config.get("k"), config.get("rescale_acts_by_decoder_norm")) == (
        (3, False) if kind == "topk" else (None, None)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_saelens_computes_the_same(kind: str, tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens", reason="SAELens is not installed")
    given = sae(kind)
    loaded = sae_lens.SAE.load_from_disk(export(tmp_path / "sae", **given))
    x = torch.randn(64, D_IN, generator=torch.Generator().manual_seed(1))
    if given["threshold"] is not None:
        # rows on which a pre-activation is its threshold exactly, which is off on both sides
        pre = (x - given["b_dec"]) @ given["W_enc"] + given["b_enc"]
        given["threshold"] = pre.amax(0)
        loaded = sae_lens.SAE.load_from_disk(export(tmp_path / "sae", **given))
        assert int((pre == given["threshold"]).sum()) >= D_SAE
        assert not bool(codes(given, x).any())
        x = torch.cat([x, 2 * x])
    with torch.no_grad():
        acts = loaded.encode(x)
        assert torch.equal(acts, codes(given, x))
        assert torch.allclose(loaded.decode(acts), acts @ given["W_dec"] + given["b_dec"])
    assert bool((acts > 0).any())
    assert loaded.cfg.metadata.hook_name == "blocks.3.hook_resid_post"

    loaded.save_model(tmp_path / "theirs")
    got = read(tmp_path / "theirs")
    assert torch.equal(got["W_dec"], given["W_dec"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_dtypes(dtype: str, tmp_path: Path) -> None:
    given = sae("batch-topk")
    got = read(export(tmp_path / "sae", **given, dtype=dtype))
    assert got["dtype"] == dtype
    assert torch.equal(got["threshold"], given["threshold"].to(getattr(torch, dtype)))


def test_a_feature_may_be_off_by_an_infinite_threshold(tmp_path: Path) -> None:
    given = sae("batch-topk")
    given["threshold"][3] = float("inf")
    assert read(export(tmp_path / "sae", **given))["threshold"][3] == float("inf")


def test_an_export_replaces_only_an_export(tmp_path: Path) -> None:
    given = sae("relu")
    export(tmp_path / "sae", **given)
    given["b_dec"] = given["b_dec"] + 1
    assert torch.equal(read(export(tmp_path / "sae", **given))["b_dec"], given["b_dec"])
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]
    (tmp_path / "sae" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        export(tmp_path / "sae", **given)
    assert (tmp_path / "sae" / "notes.txt").read_text() == "mine"


@pytest.mark.fault("an export cut short between two renames")
def test_an_export_cut_short_leaves_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = sae("relu")
    export(tmp_path / "sae", **given)
    calls = 0

    def rename(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # the old one is aside, the new one not yet there
            raise KeyboardInterrupt
        os.rename(source, target)

    monkeypatch.setattr(atomic, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "sae", **{**given, "b_dec": given["b_dec"] + 1})
    monkeypatch.undo()
    assert torch.equal(read(tmp_path / "sae")["b_dec"], given["b_dec"])
    export(tmp_path / "sae", **given)
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]


@pytest.mark.fault("a folder that is no SAE")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "gated"}, "kind is 'gated'"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"kind": "topk", "k": 2.5}, "k is 2.5"),
        ({"kind": "topk", "k": 0}, "k is 0"),
        ({"kind": "topk", "k": None}, "k is None"),
        ({"kind": "topk", "k": float("inf")}, "k is inf"),
        ({"kind": "batch-topk"}, "takes a threshold"),
        ({"threshold": torch.zeros(D_SAE)}, "takes no threshold"),
        ({"W_enc": torch.zeros(D_SAE, D_IN)}, r"b_enc has shape \(20,\), expected \(6,\)"),
        ({"W_enc": torch.zeros(3)}, "W_enc has shape"),
        ({"b_dec": torch.full((D_IN,), float("nan"))}, "b_dec holds"),
        ({"metadata": {"x": float("nan")}}, "metadata cannot"),
    ],
)
def test_what_is_no_sae_is_refused(change: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        export(tmp_path / "sae", **{**sae("relu"), **change})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault("an SAE that computes something else")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "gated"}, "'gated'"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations = 'layer_norm'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations = 'hook_z'"),
        ({"metadata": None}, "SAELens 6"),
        ({"metadata": {}}, "SAELens 6"),
        ({"metadata": {"sae_lens_version": "5.9.0"}}, "SAELens 6"),
        ({"architecture": "jumprelu"}, "expected .*threshold"),
    ],
)
def test_an_sae_that_computes_something_else_is_refused(
    change: dict, words: str, tmp_path: Path
) -> None:
    path = export(tmp_path / "sae", **sae("relu")) / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=words):
        read(tmp_path / "sae")


@pytest.mark.fault("a tensor or setting that fits no SAE")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"apply_b_dec_to_input": "no"}, "apply_b_dec_to_input = 'no'; expected true or false"),
        ({"apply_b_dec_to_input": 0}, "apply_b_dec_to_input = 0; expected true or false"),
        ({"rescale_acts_by_decoder_norm": []}, "rescale_acts_by_decoder_norm = "),
        ({"architecture": ["relu"]}, r"architecture \['relu'\]"),
        ({"k": "3"}, "k is '3'"),
        ({"metadata": {"sae_lens_version": [6]}}, "no metadata of a version"),
        ({"metadata": {"sae_lens_version": "6.0.0", "hook_name": ["x"]}}, r"hook_name = \['x'\]"),
        ({"metadata": {"sae_lens_version": "6.0.0", "model_name": 5}}, "model_name = 5"),
        ({"metadata": {"sae_lens_version": "6.0.0", "prefixes": 5}}, "prefixes are 5"),
        ({"metadata": {"sae_lens_version": "6.0.0", "prefixes": [8, 4]}}, r"prefixes are \[8, 4\]"),
    ],
)
def test_settings_of_another_type_are_named(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    change(export(tmp_path / "sae", **sae("relu")), **settings)
    with pytest.raises(ConfigError, match=words):
        read_stored(tmp_path / "sae")


@pytest.mark.fault("a tensor or setting that fits no SAE")
@pytest.mark.parametrize("folded", [{"apply_b_dec_to_input": False},
                                    {"rescale_acts_by_decoder_norm": True}])  # fmt: skip
@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec"])
def test_a_tensor_of_another_shape_is_named_before_it_is_folded(
    name: str, folded: dict[str, bool], tmp_path: Path
) -> None:
    folder = export(tmp_path / "sae", **sae("topk"))
    tensors = load_file(folder / WEIGHTS_FILE) | {name: torch.zeros(D_IN + 1)}
    save_file(tensors, folder / WEIGHTS_FILE)
    change(folder, weights_sha256=None, **folded)
    with pytest.raises(ConfigError, match=rf"{name} has shape \(7,\)"):
        read(folder)


@pytest.mark.fault("a tensor or setting that fits no SAE")
def test_two_thresholds_where_one_is_shared_are_named(tmp_path: Path) -> None:
    folder = export(tmp_path / "sae", **sae("relu"))
    save_file(load_file(folder / WEIGHTS_FILE) | {"topk_threshold": torch.ones(2)},
              folder / WEIGHTS_FILE)  # fmt: skip
    change(folder, architecture="batchtopk", weights_sha256=None)
    with pytest.raises(ConfigError, match=r"topk_threshold has shape \(2,\)"):
        read(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_that_does_not_take_the_bias_off_is_folded(kind: str, tmp_path: Path) -> None:
    given = sae(kind)
    x = torch.randn(64, D_IN, generator=torch.Generator().manual_seed(1))
    centred = given["b_enc"]
    folder = export(
        tmp_path / "sae", **{**given, "b_enc": centred - given["b_dec"] @ given["W_enc"]}
    )
    change(folder, apply_b_dec_to_input=False)
    torch.testing.assert_close(codes(read(folder), x), codes(given, x), rtol=1e-6, atol=1e-6)


def test_decoder_norms_that_rank_the_features_are_folded(tmp_path: Path) -> None:
    given = sae("topk")
    x = torch.randn(64, D_IN, generator=torch.Generator().manual_seed(1))
    folder = export(tmp_path / "sae", **given)
    change(folder, rescale_acts_by_decoder_norm=True)
    norm = given["W_dec"].norm(dim=1)
    ranked = {**given, "W_enc": given["W_enc"] * norm, "b_enc": given["b_enc"] * norm}
    got = read(folder)
    torch.testing.assert_close(codes(got, x), codes(ranked, x), rtol=1e-6, atol=1e-6)
    # their reconstruction divides the codes by the norms again
    torch.testing.assert_close(
        codes(got, x) @ got["W_dec"], (codes(ranked, x) / norm) @ given["W_dec"]
    )
    assert not torch.allclose(codes(got, x), codes(given, x))


@pytest.mark.parametrize(
    ("architecture", "kind"), [("batchtopk", "batch-topk"), ("matryoshka_batchtopk", "matryoshka")]
)
def test_a_checkpoint_of_saelens_training_is_read(
    architecture: str, kind: str, tmp_path: Path
) -> None:
    given = {**sae("relu"), "W_dec": torch.nn.functional.normalize(sae("relu")["W_dec"], dim=1)}
    folder = export(tmp_path / "sae", **given)
    tensors = {n: given[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
    save_file({**tensors, "topk_threshold": torch.tensor(0.7).double()}, folder / WEIGHTS_FILE)
    metadata = {"sae_lens_version": "6.1.0"}
    change(folder, architecture=architecture, k=3, weights_sha256=None, metadata=metadata,
           rescale_acts_by_decoder_norm=True, matryoshka_widths=[4, D_SAE])  # fmt: skip
    got = read_stored(folder)
    assert (got.kind, got.k, got.prefixes) == (kind, 3, (4, D_SAE))
    assert torch.equal(got.threshold, torch.full((D_SAE,), 0.7))
    torch.testing.assert_close(got.W_enc, given["W_enc"])


def test_what_saelens_saved_itself_is_told_by_its_thresholds(tmp_path: Path) -> None:
    """It stores BatchTopK as JumpReLU with one threshold for all features."""
    given = sae("jumprelu")
    metadata = {"sae_lens_version": "6.1.0"}
    change(export(tmp_path / "own", **given), metadata=metadata)
    given["threshold"] = torch.full((D_SAE,), 0.5)
    change(export(tmp_path / "shared", **given), metadata=metadata)
    assert read(tmp_path / "own")["kind"] == "jumprelu"
    assert read(tmp_path / "shared")["kind"] == "batch-topk"
    assert read(tmp_path / "shared")["k"] is None


def test_metadata_of_theirs_survives(tmp_path: Path) -> None:
    folder = export(tmp_path / "sae", **sae("relu"), metadata={"neuronpedia_id": "x/1"})
    again = write_stored(read_stored(folder), tmp_path / "again")
    assert read(again)["metadata"]["neuronpedia_id"] == "x/1"


def change(folder: Path, **settings: object) -> None:
    """Other settings in a folder's `cfg.json`."""
    path = folder / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.fault("damaged weights of an SAE")
def test_damage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a readable SAE"):
        read(tmp_path)
    path = export(tmp_path / "sae", **sae("relu")) / "sae_weights.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match="is not the file"):
        read(tmp_path / "sae")
    path.write_bytes(raw[:50])
    with pytest.raises(ConfigError, match="not a readable SAE"):
        read(tmp_path / "sae")
    (tmp_path / "sae" / "cfg.json").write_text("[")
    with pytest.raises(ConfigError, match="not a readable SAE"):
        read(tmp_path / "sae")
