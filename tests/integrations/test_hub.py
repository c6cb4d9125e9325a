"""Pushing to and pulling from a stand-in for the hub, through the hub's own client."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import environment
from tests.integrations.hub_server import Hub, serving
from tests.stored_saes import stored
from topk_ortho import formats
from topk_ortho.config import ConfigError
from topk_ortho.integrations.hub import pull, push

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    with serving() as server:
        yield server


@pytest.mark.parametrize("layout", ["saelens", "dictionary-learning", "sparsify"])
def test_what_is_pushed_comes_back_byte_for_byte(layout: Any, hub: Hub, tmp_path: Path) -> None:
    given = formats.write(stored("topk"), tmp_path / "sae", layout=layout)
    url = push(given, "me/saes", subfolder="layer-3", endpoint=hub.url)
    assert url.startswith(f"{hub.url}/me/saes/commit/")
    names = {f"layer-3/{name}" for name in formats.FILES[layout]}
    assert set(hub.repos["me/saes"]) == names
    assert pull("me/saes", tmp_path / "back", subfolder="layer-3", endpoint=hub.url) == layout
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == sorted(formats.FILES[layout])
    for name in formats.FILES[layout]:
        assert (tmp_path / "back" / name).read_bytes() == (given / name).read_bytes()


def test_a_run_folder_sends_its_sae_alone(hub: Hub, tmp_path: Path) -> None:
    formats.write(stored("relu"), tmp_path / "run" / "sae")
    (tmp_path / "run" / "config.toml").write_text("seed = 1")
    (tmp_path / "run" / "sae" / "notes.txt").write_text("mine")
    push(tmp_path / "run", "me/saes", endpoint=hub.url)
    assert set(hub.repos["me/saes"]) == set(formats.FILES["saelens"])
    assert hub.private["me/saes"]
    push(tmp_path / "run", "me/open", private=False, endpoint=hub.url)
    assert not hub.private["me/open"]


def test_pulling_fetches_nothing_but_the_sae(hub: Hub, tmp_path: Path) -> None:
    push(formats.write(stored("relu"), tmp_path / "sae"), "me/saes", endpoint=hub.url)
    hub.repos["me/saes"] |= {"README.md": b"#", "big.bin": b"0" * 1000, "other/cfg.json": b"{}"}
    pull("me/saes", tmp_path / "back", endpoint=hub.url)
    fetched = [asked for asked in hub.asked if "/resolve/" in asked]
    assert fetched
    assert not [a for a in fetched if not a.endswith(formats.FILES["saelens"])]
    got, given = formats.read(tmp_path / "back"), stored("relu")
    assert torch.equal(got.W_dec, given.W_dec)


def test_what_cannot_be_had_ends_in_one_sentence(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="me/gone cannot be read"):
        pull("me/gone", tmp_path / "x", endpoint=hub.url)
    hub.repos["me/empty"], hub.private["me/empty"] = {"README.md": b"#"}, False
    with pytest.raises(ConfigError, match=r"its root holds no SAE.*--subfolder"):
        pull("me/empty", tmp_path / "x", endpoint=hub.url)
    hub.repos["me/half"], hub.private["me/half"] = {"sae_weights.safetensors": b""}, False
    with pytest.raises(ConfigError, match=r"no cfg\.json"):
        pull("me/half", tmp_path / "x", endpoint=hub.url)
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        pull("not a name", tmp_path / "x", endpoint=hub.url)
    with pytest.raises(ConfigError, match="no such folder"):
        push(tmp_path / "gone", "me/saes", endpoint=hub.url)
    given = formats.write(stored("relu"), tmp_path / "sae")
    with pytest.raises(ConfigError, match="cannot be written to"):
        push(given, "me/saes", endpoint="http://127.0.0.1:9")
    push(given, "me/saes", endpoint=hub.url)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        pull("me/saes", tmp_path / "mine", endpoint=hub.url)
    assert not (tmp_path / "x").exists()


def test_the_commands_do_it_too(hub: Hub, tmp_path: Path) -> None:
    """The address comes from `HF_ENDPOINT`, as the client reads it."""
    formats.write(stored("topk"), tmp_path / "sae")
    environ = {**environment(), "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_stand_in"}
    for command, said in (("push sae me/saes", "commit"), ("pull me/saes back", "saelens")):
        done = subprocess.run(
            [sys.executable, "-m", "topk_ortho.cli", *command.split()],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    assert formats.digest(tmp_path / "back") == formats.digest(tmp_path / "sae")
