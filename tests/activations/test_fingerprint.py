"""Fingerprints notice what changed, and name every file of the data."""

from __future__ import annotations

from pathlib import Path

import pytest

from topk_ortho.activations import fingerprint as module
from topk_ortho.activations.fingerprint import fingerprint
from topk_ortho.config import TrainConfig


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md"):
        (folder / name).write_text(name)
    return folder


def language(model: Path, *text: Path) -> TrainConfig:
    return TrainConfig(activations="language-model", model=str(model), text=text)


def test_synthetic_data_has_no_files():
    assert fingerprint(TrainConfig()) == {}


def test_text_and_model_files_are_named(model, tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("abc")
    found = fingerprint(language(model, text))
    names = {Path(name).name for name in found}
    assert names == {"a.txt", "config.json", "model.safetensors", "tokenizer.json"}
    # sha256 of "abc", FIPS 180-2 appendix B.1
    assert found[str(text)] == {
        "bytes": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "whole": True,
    }
    assert fingerprint(language(tmp_path / "by-name", text)).keys() == {str(text)}


def test_shards_and_their_description_are_named(tmp_path):
    for name in ("0.npy", "1.safetensors", "source.json", "notes.txt"):
        (tmp_path / name).write_text(name)
    found = fingerprint(TrainConfig(activations="files", data=tmp_path))
    assert {Path(name).name for name in found} == {"0.npy", "1.safetensors", "source.json"}


def test_a_missing_file_is_none(model, tmp_path):
    assert fingerprint(language(model, tmp_path / "gone.txt"))[str(tmp_path / "gone.txt")] is None


def test_large_files_are_known_by_size_and_ends(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WHOLE", 10)
    monkeypatch.setattr(module, "END", 4)
    text = tmp_path / "a.txt"

    def of(content: bytes) -> object:
        text.write_bytes(content)
        return fingerprint(language(model, text))[str(text)]

    base = of(b"abcd--------wxyz")
    assert base["whole"] is False
    assert of(b"Abcd--------wxyz") != base
    assert of(b"abcd--------wxyZ") != base
    assert of(b"abcd---------wxyz") != base
    assert of(b"abcd--------wxyz") == base
