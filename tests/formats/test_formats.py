"""Folders of other packages, in their published layouts: read, written, refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.formats.folders import (
    dictionary_folder,
    dictionary_folders,
    linear,
    sparsify_folder,
)
from tests.stored_saes import D_IN, D_SAE, KINDS, K, codes, reconstruction, rows, stored
from topk_ortho import formats, load_sae
from topk_ortho.config import ConfigError
from topk_ortho.formats import saelens
from topk_ortho.formats.stored import StoredSAE

LAYOUTS = ("saelens", "dictionary-learning", "sparsify")
CLOSE = {"rtol": 1e-6, "atol": 1e-6}
FOLDED = {"rtol": 1e-5, "atol": 1e-5}  # norms multiply the rounding of `pre`


@torch.no_grad()
def assert_computes(folder: Path, expected: StoredSAE) -> None:
    """The folder opens as an SAE with the codes and reconstructions of `expected`."""
    sae, x = load_sae(folder, allow_pickle=True), rows()
    acts = codes(expected, x)
    assert 0 < int((acts > 0).sum()) < acts.numel()
    torch.testing.assert_close(sae.encode(x), acts, **CLOSE)
    torch.testing.assert_close(sae.decode(sae.encode(x)), reconstruction(expected, acts), **CLOSE)


def test_every_class_of_dictionary_learning_is_read(tmp_path: Path) -> None:
    ks = {"JumpReluAutoEncoder": 3.5, "AutoEncoder": None, "AutoEncoderNew": None}
    for name, (folder, expected) in dictionary_folders(tmp_path / "dl").items():
        got = formats.read(folder, allow_pickle=True)
        assert (got.layout, got.kind, got.model) == ("dictionary-learning", expected.kind, "tiny")
        assert got.k == ks.get(name, K)
        assert got.prefixes == expected.prefixes
        assert_computes(folder, expected)


def test_sparsify_is_read(tmp_path: Path) -> None:
    got = formats.read(sparsify_folder(tmp_path / "sae", stored("topk")))
    assert (got.layout, got.kind, got.k) == ("sparsify", "topk", K)
    assert_computes(tmp_path / "sae", stored("topk"))


def test_a_round_trip_in_their_layout_is_exact(tmp_path: Path) -> None:
    """Read and written again: the same tensors by the same names, and the same settings."""
    folders = {n: f for n, (f, _) in dictionary_folders(tmp_path / "dl").items()}
    for name, folder in folders.items():
        sae = formats.read(folder, allow_pickle=True)
        again = formats.write(sae, tmp_path / "again" / name)
        old, new = (torch.load(f / "ae.pt", weights_only=True) for f in (folder, again))
        assert set(old) == set(new)
        if name == "AutoEncoderTopK":  # an estimate for another way of encoding: not kept
            assert new.pop("threshold") == -1 != old.pop("threshold")
        for key in old:
            torch.testing.assert_close(new[key], old[key], **CLOSE)
        old, new = (json.loads((f / "config.json").read_text()) for f in (folder, again))
        assert {**old["trainer"], **new["trainer"]} == new["trainer"]
        assert old["buffer"] == new["buffer"]
    folder = sparsify_folder(tmp_path / "sparsify", stored("topk"), multi_topk=True)
    again = formats.write(formats.read(folder), tmp_path / "again" / "sparsify")
    assert json.loads((folder / "cfg.json").read_text()) == json.loads(
        (again / "cfg.json").read_text()
    )


@pytest.mark.parametrize("unit", [True, False], ids=["unit", "any norm"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_round_trip_keeps_codes(kind: str, layout: Any, unit: bool, tmp_path: Path) -> None:
    given = stored(kind, unit=unit)
    if layout == "sparsify" and kind != "topk":
        with pytest.raises(ConfigError, match="TopK alone"):
            formats.write(given, tmp_path / "sae", layout=layout)
        return
    formats.write(given, tmp_path / "sae", layout=layout)
    assert formats.detect(tmp_path / "sae") == (layout, tmp_path / "sae")
    got = formats.read(tmp_path / "sae", allow_pickle=True)
    assert (got.kind, got.prefixes) == (given.kind, given.prefixes)
    assert got.k == (None if (layout, kind) == ("dictionary-learning", "relu") else given.k)
    assert_computes(tmp_path / "sae", given)


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    given = stored("topk")
    narrow = {n: getattr(given, n).bfloat16() for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
    given = replace(given, **narrow)
    for layout in LAYOUTS:
        got = formats.read(
            formats.write(given, tmp_path / layout, layout=layout), allow_pickle=True
        )
        assert got.dtype == "bfloat16"
        assert torch.equal(got.W_dec, given.W_dec)


def test_a_run_folder_stands_for_its_sae(tmp_path: Path) -> None:
    formats.write(stored("relu"), tmp_path / "run" / "sae")
    assert formats.detect(tmp_path / "run") == ("saelens", tmp_path / "run" / "sae")
    assert formats.digest(tmp_path / "run") == formats.digest(tmp_path / "run" / "sae")


def test_a_digest_names_the_content(tmp_path: Path) -> None:
    one = formats.digest(formats.write(stored("relu"), tmp_path / "a"))
    assert formats.digest(formats.write(stored("relu"), tmp_path / "b")) == one
    assert formats.digest(formats.write(stored("relu", seed=1), tmp_path / "c")) != one


def test_no_pickle_is_opened_unless_it_is_allowed(tmp_path: Path) -> None:
    formats.write(stored("topk"), tmp_path / "sae", layout="dictionary-learning")
    for read in (formats.read, load_sae):
        with pytest.raises(ConfigError, match="--allow-pickle"):
            read(tmp_path / "sae")


class Trap:
    """Unpickled without care, it writes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "run"))


@pytest.mark.parametrize("content", ["trap", "list", "numbers", "broken"])
def test_nothing_but_tensors_comes_out_of_a_pickle(content: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    given = {"trap": {"k": Trap(marker)}, "list": [1], "numbers": {"k": 3}, "broken": {}}[content]
    dictionary_folder(tmp_path / "sae", "AutoEncoderTopK", given, k=K)
    if content == "broken":
        (tmp_path / "sae" / "ae.pt").write_bytes(b"no pickle")
    with pytest.raises(ConfigError, match="not a dictionary of tensors"):
        load_sae(tmp_path / "sae", allow_pickle=True)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"transcode": True}, "transcode = True"),
        ({"skip_connection": True}, "skip_connection"),
        ({"signed": True}, "signed"),
        ({"activation": "groupmax"}, "groupmax"),
        ({"k": D_SAE + 1}, "k is 21"),
        ({"k": None}, "k is None"),
    ],
)
def test_what_sparsify_computes_otherwise_is_refused(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        load_sae(sparsify_folder(tmp_path / "sae", stored("topk"), **settings))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("GatedAutoEncoder", {}, "'GatedAutoEncoder'"),
        ("AutoEncoderTopK", {"encoder.bias": None}, r"\['encoder.bias'\] is missing"),
        ("BatchTopKSAE", {}, r"\['threshold'\] is missing"),
        ("AutoEncoderTopK", {"k": torch.tensor(4)}, "k = 3 in config.json and 4 in ae.pt"),
        ("AutoEncoderTopK", {"b_dec": torch.zeros(D_IN + 1)}, "b_dec has shape"),
    ],
)
def test_what_dictionary_learning_computes_otherwise_is_refused(
    name: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    tensors = {k: t for k, t in (linear(stored("topk")) | change).items() if t is not None}
    dictionary_folder(tmp_path / "sae", name, tensors, k=K)
    with pytest.raises(ConfigError, match=words):
        load_sae(tmp_path / "sae", allow_pickle=True)


TOO_LONG = torch.zeros(D_SAE + 1)
TWO = torch.tensor([K, K])
UNFIT: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "b_dec too long": ("JumpReluAutoEncoder", {"b_dec": torch.zeros(D_IN + 1)}, {}, "b_dec has"),
    "b_enc too long": ("JumpReluAutoEncoder", {"b_enc": TOO_LONG}, {}, "b_enc has shape"),
    "W_enc without columns": ("JumpReluAutoEncoder", {"W_enc": torch.zeros(3)}, {}, "W_enc has"),
    "a threshold too many": ("JumpReluAutoEncoder", {"threshold": TOO_LONG}, {}, "threshold has"),
    "two k": ("AutoEncoderTopK", {"k": TWO}, {}, r"k has shape \(2,\), expected one number"),
    "k of text": ("JumpReluAutoEncoder", {}, {"target_l0": "3"}, "k is '3'"),
    "bias too long": ("AutoEncoder", {"bias": torch.zeros(D_IN + 1)}, {}, "b_dec has shape"),
    "norms too many": (
        "AutoEncoder",
        {"decoder.weight": 2 * torch.ones(D_IN, D_SAE + 1)},
        {},
        "W_dec has shape",
    ),
    "whole numbers": ("AutoEncoder", {"bias": torch.zeros(D_IN, dtype=torch.long)}, {}, "dtype"),
    "groups of more than all": (
        "MatryoshkaBatchTopKSAE",
        {"group_sizes": torch.tensor([4, 8, 9])},
        {},
        r"prefixes are \[4, 12, 21\]",
    ),
    "groups of text": (
        "MatryoshkaBatchTopKSAE",
        {"group_sizes": torch.tensor([[4, 16]])},
        {},
        "prefixes are",
    ),
}


@pytest.mark.fault("a tensor or setting that fits no SAE")
@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_an_sae_of_dictionary_learning_is_named(
    case: str, tmp_path: Path
) -> None:
    name, change, trainer, words = UNFIT[case]
    folder, _ = dictionary_folders(tmp_path / "dl")[name]
    tensors = torch.load(folder / "ae.pt", weights_only=True)
    dictionary_folder(tmp_path / "sae", name, tensors | change, **trainer)
    with pytest.raises(ConfigError, match=words):
        load_sae(tmp_path / "sae", allow_pickle=True)


@pytest.mark.fault("a tensor or setting that fits no SAE")
@pytest.mark.parametrize("k", ["3", True, [3], float("nan")], ids=repr)
def test_a_k_that_is_no_number_is_named(k: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"k is {re.escape(repr(k))}, but the number of feat"):
        load_sae(sparsify_folder(tmp_path / "sae", stored("topk"), k=k))


def layout_folder(layout: str, folder: Path) -> Path:
    """The configuration file of an SAE in that layout."""
    formats.write(stored("topk"), folder, layout=layout)  # type: ignore[arg-type]
    return folder / formats.FILES[layout][0]  # type: ignore[index]


@pytest.mark.fault("JSON nested beyond the parser's stack")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_configuration_that_is_nested_too_deeply_is_named(layout: str, tmp_path: Path) -> None:
    config = layout_folder(layout, tmp_path / "sae")
    config.write_text('{"metadata":' * 200_000)
    with pytest.raises(ConfigError, match=rf"not a readable SAE.*expected {config.name}"):
        load_sae(tmp_path / "sae", allow_pickle=True)


@pytest.mark.fault("a tensor or setting that fits no SAE")
@pytest.mark.parametrize("content", ["[]", "3", "null", '"topk"', "{}"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_configuration_that_is_something_else_is_refused(
    layout: str, content: str, tmp_path: Path
) -> None:
    layout_folder(layout, tmp_path / "sae").write_text(content)
    with pytest.raises(ConfigError, match=r"metadata|no JSON object|k is None|dict_class"):
        load_sae(tmp_path / "sae", allow_pickle=True)


def test_a_threshold_below_zero_is_none(tmp_path: Path) -> None:
    """BatchTopK of dictionary_learning has -1 until its threshold is estimated."""
    given = stored("batch-topk")
    numbers = {"k": torch.tensor(K), "threshold": torch.tensor(-1.0)}
    dictionary_folder(tmp_path / "sae", "BatchTopKSAE", linear(given) | numbers, k=K)
    assert_computes(tmp_path / "sae", replace(given, threshold=torch.zeros(D_SAE)))


def test_a_batchtopk_that_theirs_cannot_hold_becomes_a_jumprelu(tmp_path: Path) -> None:
    given = stored("batch-topk")
    for name, sae in (
        ("k", replace(given, k=2.5)),
        ("thresholds", replace(given, threshold=given.threshold + torch.arange(D_SAE) / 100)),
    ):
        folder = formats.write(sae, tmp_path / name, layout="dictionary-learning")
        trainer = json.loads((folder / "config.json").read_text())["trainer"]
        assert trainer["dict_class"] == "JumpReluAutoEncoder"
        assert trainer["target_l0"] == sae.k
        assert_computes(folder, sae)


def test_folders_that_are_no_sae_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        formats.detect(tmp_path / "gone")
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match=r"no trained SAE.*ae\.pt"):
        formats.read(tmp_path / "none")
    folder = sparsify_folder(tmp_path / "two", stored("topk"))
    (folder / "ae.pt").touch()
    with pytest.raises(ConfigError, match="more than one"):
        formats.read(folder)
    with pytest.raises(ConfigError, match="layout torch"):
        formats.write(stored("topk"), tmp_path / "x", layout="torch")  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_files_are_not_written_over(layout: Any, tmp_path: Path) -> None:
    given = stored("topk")
    folder = formats.write(given, tmp_path / "sae", layout=layout)
    formats.write(given, folder, layout=layout)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        formats.write(given, folder, layout=layout)
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", ["relu", "jumprelu"])
def test_unit_rows_keep_codes_times_norms(kind: str) -> None:
    given, x = stored(kind, unit=False), rows()
    unit = given.unit_rows()
    torch.testing.assert_close(unit.W_dec.norm(dim=1), torch.ones(D_SAE))
    torch.testing.assert_close(codes(unit, x), codes(given, x) * given.W_dec.norm(dim=1), **FOLDED)
    assert_same_reconstruction(unit, given, x)


def test_unit_rows_that_would_rank_otherwise_are_refused() -> None:
    with pytest.raises(ConfigError, match="norms from"):
        stored("topk", unit=False).unit_rows()
    twice = replace(stored("topk"), W_dec=2 * stored("topk").W_dec)
    assert_same_reconstruction(twice.unit_rows(), twice, rows())


@pytest.mark.parametrize("kind", KINDS)
def test_a_scaled_sae_reconstructs_scaled_activations(kind: str) -> None:
    given, x = stored(kind), rows()
    acts = codes(given, x)
    grown = given.scaled(3.0)
    torch.testing.assert_close(codes(grown, 3 * x), 3 * acts, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        reconstruction(grown, 3 * acts), 3 * reconstruction(given, acts), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_scaled_sae_is_rounded_once(dtype: torch.dtype) -> None:
    """Each number is the float64 product in the stored dtype, or in float32 where that is wider."""
    names, scale = ("b_enc", "b_dec", "threshold"), 1 / 3
    given = stored("jumprelu")
    given = replace(given, **{name: getattr(given, name).to(dtype) for name in names})
    grown = given.scaled(scale)
    for name in names:
        exact = getattr(given, name).double() * scale
        expected = exact.to(torch.promote_types(dtype, torch.float32))
        assert getattr(grown, name).dtype == expected.dtype
        assert torch.equal(getattr(grown, name), expected)
    assert grown.W_enc is given.W_enc and grown.W_dec is given.W_dec


def assert_same_reconstruction(one: StoredSAE, other: StoredSAE, x: Tensor) -> None:
    torch.testing.assert_close(
        reconstruction(one, codes(one, x)), reconstruction(other, codes(other, x)), **FOLDED
    )


def test_saelens_names_its_own_files() -> None:
    assert formats.FILES["saelens"] == (saelens.CONFIG, saelens.WEIGHTS)


@pytest.mark.parametrize("kind", ["batch-topk", "matryoshka"])
def test_a_k_that_no_file_says_is_not_made_up(kind: str, tmp_path: Path) -> None:
    """Codes need none; a training pass says that it does, and invents no k of its own."""
    formats.write(replace(stored(kind), k=None), tmp_path / "sae")
    sae = load_sae(tmp_path / "sae")
    assert sae.config.k is None
    assert_computes(tmp_path / "sae", stored(kind))
    for sparse in (False, True):
        with pytest.raises(ConfigError, match=r"training pass .* needs k.*sae\.encode"):
            sae.training_pass(rows(), sparse=sparse)


@pytest.mark.parametrize("kind", ["relu", "jumprelu"])
def test_a_training_pass_that_needs_no_k_is_that_of_the_codes(kind: str, tmp_path: Path) -> None:
    formats.write(replace(stored(kind), k=None), tmp_path / "sae")
    sae = load_sae(tmp_path / "sae")
    torch.testing.assert_close(sae.training_pass(rows()).code, codes(stored(kind), rows()), **CLOSE)


@pytest.mark.parametrize("kind", ["topk", "batch-topk", "matryoshka", "relu", "jumprelu"])
def test_a_loaded_sae_is_called_like_any_module(kind: str, tmp_path: Path) -> None:
    """It is in eval mode, so that it reconstructs by the rule of its codes, and needs no k."""
    formats.write(replace(stored(kind), k=None) if kind != "topk" else stored(kind), tmp_path / "s")
    sae, x = load_sae(tmp_path / "s"), rows()
    assert not any(module.training for module in sae.modules())
    torch.testing.assert_close(sae(x), sae.decode(codes(stored(kind), x)), **CLOSE)
