"""Whatever a file may be called, a configuration holds its name."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from topk_ortho.config import TrainConfig
from topk_ortho.config.rules import check
from topk_ortho.config.spelling import spelled, unspelled
from topk_ortho.config.toml import config_hash, config_text, read_config

NAMES = (b"caf\xe9", b"\xff\xfe\x80", "café 日本 🙂".encode(), b"a\xe9\xc3\xa9\xc3", b"0ff e9")


@pytest.mark.fault("a file name that is not UTF-8")
@pytest.mark.parametrize("name", NAMES)
def test_a_name_comes_back_as_it_was(name: bytes, tmp_path: Path) -> None:
    text = os.fsdecode(name)
    assert os.fsencode(unspelled(spelled(text).encode().decode())) == name
    config = check(
        replace(
            TrainConfig(),
            activations="language-model",
            model=f"/models/{text}",
            text=(Path(f"/texts/{text}"), Path("b.txt")),
            hook="h",
        )
    )
    (tmp_path / "config.toml").write_text(config_text(config), encoding="utf-8")
    again = read_config(tmp_path / "config.toml")
    assert again == config
    assert again.text[0].name == text
    assert config_hash(again) == config_hash(config)


def test_names_of_unicode_are_stored_as_they_are() -> None:
    config = TrainConfig(activations="files", data=Path("café/日本"))
    assert 'data = "café/日本"' in config_text(config)
