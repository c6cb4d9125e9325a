"""Models in GGUF files: opened by either backend, and counted into what a run reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.activations.models import tiny_gguf
from topk_ortho.activations.fingerprint import fingerprint
from topk_ortho.activations.models import LanguageModel
from topk_ortho.config import TrainConfig
from topk_ortho.config.paths import absolute

POST = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    return tiny_gguf.build(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_both_backends_open_one(file: Path) -> None:
    plain = LanguageModel.load(file, hooks=[POST])
    lens = LanguageModel.load(file, hooks=[POST], backend="transformer-lens")
    assert plain.name == lens.name == str(file)
    assert plain.described["backend"] == "transformers"
    assert plain.d_vocab == len(tiny_gguf.TOKENS)
    tokens = torch.tensor([[1, 5, 6, 7], [1, 9, 3, 4]])
    x, y = plain.activations(tokens, POST), lens.activations(tokens, POST)
    torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
    assert x.shape == (2, 4, tiny_gguf.D_MODEL)
    assert plain.tokenizer("cab", add_special_tokens=False)["input_ids"]


def test_it_counts_into_the_data_of_a_run(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    text = tmp_path / "t.txt"
    text.write_text("text")
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(model="m.gguf", text=(text,), hook=POST)
    known = fingerprint(config)
    assert known.keys() == {"m.gguf", str(text)}
    (tmp_path / "m.gguf").write_bytes(b"GGUF2")
    assert fingerprint(config) != known
    assert absolute(config) == replace(config, model=str(tmp_path / "m.gguf"))
