"""Checkpoints of version 1: the stored sample is read and resumed, and no damaged one is."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from topk_ortho.checkpoint.store import CheckpointError, load
from topk_ortho.constraint.history import PairHistory
from topk_ortho.training import resume

ROOT = Path(__file__).resolve().parents[2]
RUN = Path(__file__).parent / "data" / "run-v1"
SAMPLE = RUN / "checkpoints" / "step_8"
FILES = ("manifest.json", "tensors.safetensors", "state.json", "history.bin")


def documented(heading: str) -> list[str]:
    """The names in the first column of the table under a heading of `docs/formats.md`."""
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    section = re.split(r"\n##+ ", text.split(f"\n### {heading}\n")[1])[0]
    rows = re.findall(r"^\| (`.*?`(?:, `.*?`)*) \|", section, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(.*?)`", row)]


def test_the_sample_is_read() -> None:
    checkpoint = load(SAMPLE)
    assert checkpoint.step == checkpoint.state["step"] == 8
    assert checkpoint.state["cursor"] == {"epoch": 0, "block": 0, "row": 128}
    assert checkpoint.tensors["sae.W_dec"].shape == (10, 4)
    assert checkpoint.tensors["selection.i"].tolist() == [8, 5, 5, 2, 2, 5, 1, 2, 0, 5]
    norms = checkpoint.tensors["sae.W_dec"].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(10))
    history = PairHistory.from_bytes(checkpoint.blobs["history.bin"])
    assert (history.observations, history.capacity) == (8, 64)


def test_the_sample_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(RUN, run)
    result = resume(run, progress=False)
    assert result["steps"] == 12
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"step_8", "step_12"}
    newest = load(run / "checkpoints" / "step_12")
    assert PairHistory.from_bytes(newest.blobs["history.bin"]).observations == 12
    # What is written today has the parts that were written then, and the time that a step took.
    assert newest.tensors.keys() == load(SAMPLE).tensors.keys()
    assert newest.state.keys() == {*load(SAMPLE).state, "step_ms"}


def test_every_name_of_the_sample_is_documented() -> None:
    checkpoint = load(SAMPLE)
    tensors = [re.escape(n).replace("P", r"\w+").replace(r"\*", ".+")
               for n in documented("tensors.safetensors")]  # fmt: skip
    for name in checkpoint.tensors:
        assert sum(bool(re.fullmatch(pattern, name)) for pattern in tensors) == 1, name
    assert set(documented("state.json")) == set(checkpoint.state)
    manifest = json.loads((SAMPLE / "manifest.json").read_bytes())
    assert set(documented("manifest.json")) == set(manifest)


def test_the_sample_is_laid_out_as_documented() -> None:
    raw = (SAMPLE / "manifest.json").read_bytes()
    manifest = json.loads(raw)
    assert raw == json.dumps(manifest, indent=1, sort_keys=True).encode()
    digest = manifest.pop("sha256")
    text = json.dumps(manifest, indent=1, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == digest
    for name, entry in manifest["files"].items():
        data = (SAMPLE / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    data = (SAMPLE / "tensors.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    where = json.loads(data[8 : 8 + length])["sae.W_dec"]
    begin, end = (8 + length + at for at in where["data_offsets"])
    rows = np.frombuffer(data[begin:end], "<f4").reshape(where["shape"])
    assert np.array_equal(rows, load(SAMPLE).tensors["sae.W_dec"].numpy())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLE, tmp_path / "step_8"))


def refused(folder: Path, name: str, versions: Iterator[bytes]) -> int:
    """How many damaged versions of a file were refused; the whole one is put back."""
    whole, count = (folder / name).read_bytes(), 0
    for version in versions:
        (folder / name).write_bytes(version)
        with pytest.raises(CheckpointError, match="not valid"):
            load(folder)
        count += 1
    (folder / name).write_bytes(whole)
    assert load(folder).step == 8
    return count


def flipped(whole: bytes, masks: tuple[int, ...]) -> Iterator[bytes]:
    """One bit of each byte changed, each time another one of the masks."""
    damaged = bytearray(whole)
    for at in range(len(whole)):
        mask = masks[at % len(masks)]
        damaged[at] ^= mask
        yield bytes(damaged)
        damaged[at] ^= mask


@pytest.mark.fault("a checkpoint with a changed byte")
@pytest.mark.parametrize("name", FILES)
def test_a_change_of_any_byte_is_refused(name: str, copy: Path) -> None:
    whole = (copy / name).read_bytes()
    assert refused(copy, name, flipped(whole, (0x01, 0x20, 0x80))) == len(whole)


@pytest.mark.fault("a checkpoint with a changed byte")
def test_a_change_of_any_bit_of_the_manifest_is_refused(copy: Path) -> None:
    whole = (copy / "manifest.json").read_bytes()
    for bit in range(8):
        assert refused(copy, "manifest.json", flipped(whole, (1 << bit,))) == len(whole)


@pytest.mark.fault("a checkpoint with a file cut off")
@pytest.mark.parametrize("name", FILES)
def test_every_truncation_and_every_byte_more_is_refused(name: str, copy: Path) -> None:
    whole = (copy / name).read_bytes()
    cut = (whole[:end] for end in range(len(whole)))
    assert refused(copy, name, cut) == len(whole)
    assert refused(copy, name, iter([whole + b"\0", whole + b" ", whole + b"\n", whole * 2])) == 4


@pytest.mark.fault("a checkpoint of a later version")
def test_a_later_version_is_refused_by_name(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_bytes())
    del manifest["sha256"]
    manifest["version"] = 2
    digest = hashlib.sha256(json.dumps(manifest, indent=1, sort_keys=True).encode()).hexdigest()
    text = json.dumps({**manifest, "sha256": digest}, indent=1, sort_keys=True)
    (copy / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"version 2, expected .* version 1"):
        load(copy)
