"""Shards on disk: what is read, how it is split, and every file that is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from topk_ortho.activations.files import FilesSource
from topk_ortho.config import ConfigError


def rows_of(n: int, d_in: int = 6, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d_in)).astype(np.float32)


def everything(source: FilesSource) -> torch.Tensor:
    return torch.cat(
        [source.block(i, s).x for s in ("train", "eval") for i in range(source.n_blocks(s))]
    )


def test_rows_come_back_in_order_of_name(tmp_path: Path) -> None:
    x = rows_of(95)
    np.save(tmp_path / "b.npy", x[40:70])
    np.save(tmp_path / "a.npy", x[:40])
    save_file({"activations": torch.from_numpy(x[70:])}, tmp_path / "c.safetensors")
    (tmp_path / "notes.txt").write_text("not a shard")
    source = FilesSource(tmp_path, rows_per_block=16)
    assert (source.d_in, source.rows, source.truth, source.described) == (6, 95, None, {})
    sizes = [len(source.block(i, "train").x) for i in range(source.n_blocks("train"))]
    assert sizes == [16, 16, 8, 16, 14, 16]
    assert source.n_blocks("eval") == 1 and len(source.block(0, "eval").x) == 9
    assert torch.equal(everything(source), torch.from_numpy(x))
    block = source.block(2, "train")
    assert block.fired is None and block.x.dtype == torch.float32
    assert torch.equal(block.x, source.block(2, "train").x)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_npy_types(tmp_path: Path, dtype: str) -> None:
    x = rows_of(30).astype(dtype)
    np.save(tmp_path / "a.npy", np.asfortranarray(x))
    assert torch.equal(
        everything(FilesSource(tmp_path)), torch.from_numpy(x.astype(np.float32, order="C"))
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_safetensors_types(tmp_path: Path, dtype: torch.dtype) -> None:
    x = torch.from_numpy(rows_of(30)).to(dtype)
    save_file({"activations": x, "tokens": torch.arange(30)}, tmp_path / "a.safetensors")
    assert torch.equal(everything(FilesSource(tmp_path)), x.float())
    (tmp_path / "a.safetensors").unlink()
    save_file({"anything": x}, tmp_path / "b.safetensors")
    assert torch.equal(everything(FilesSource(tmp_path)), x.float())


def test_a_block_can_be_written_to(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows_of(30))
    source = FilesSource(tmp_path)
    source.block(0, "train").x.zero_()
    assert torch.equal(everything(source), torch.from_numpy(rows_of(30)))


@pytest.mark.parametrize(
    ("rows", "train", "evaluation"), [(2, 1, 1), (5, 4, 1), (41, 5, 1), (4096, 243, 13)]
)
def test_split(tmp_path: Path, rows: int, train: int, evaluation: int) -> None:
    np.save(tmp_path / "a.npy", rows_of(rows, 2))
    source = FilesSource(tmp_path, rows_per_block=16)
    given = source.n_blocks("train"), source.n_blocks("eval")
    assert given == (train, evaluation) and len(everything(source)) == rows
    for index, split in ((train, "train"), (evaluation, "eval"), (-1, "train")):
        with pytest.raises(IndexError):
            source.block(index, split)


def test_eval_takes_at_most_a_fifth(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows_of(40))
    source = FilesSource(tmp_path, rows_per_block=4, eval_fraction=0.9)
    assert (source.n_blocks("train"), source.n_blocks("eval")) == (8, 2)


def test_the_description_is_kept(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows_of(30))
    said = {"hook": "blocks.0.hook_resid_post", "rows": 30, "d_in": 6, "version": 1}
    (tmp_path / "source.json").write_text(json.dumps(said))
    assert FilesSource(tmp_path).described == said


def refused(folder: Path, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        FilesSource(folder)


@pytest.mark.fault("a folder without shards")
def test_folders_without_shards(tmp_path: Path) -> None:
    refused(tmp_path / "missing", "no folder '.*missing'")
    refused(tmp_path, "holds no shards")


@pytest.mark.fault("an array that is no shard")
@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros(5, np.float32), r"bad\.npy' has shape \[5\]; expected two"),
        (np.zeros((2, 3, 4), np.float32), r"bad\.npy' has shape \[2, 3, 4\]"),
        (np.zeros((5, 7), np.float32), r"bad\.npy' has width 7; expected 6"),
        (np.zeros((5, 6), np.int32), r"bad\.npy' is of type int32"),
        (np.zeros((5, 6), np.complex64), r"bad\.npy' is of type complex64"),
        (np.zeros((0, 6), np.float32), r"bad\.npy'.*empty"),
        (np.zeros((5, 0), np.float32), r"bad\.npy'.*empty"),
    ],
)
def test_arrays_that_are_no_shard(tmp_path: Path, array: np.ndarray, match: str) -> None:
    np.save(tmp_path / "a.npy", rows_of(30))
    np.save(tmp_path / "bad.npy", array)
    refused(tmp_path, match)


@pytest.mark.fault("an array that is no shard")
@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"x": torch.zeros(5)}, r"bad\.safetensors' has shape \[5\]"),
        ({"x": torch.zeros(5, 7)}, r"bad\.safetensors' has width 7; expected 6"),
        ({"x": torch.zeros(5, 6, dtype=torch.int8)}, r"bad\.safetensors' is of type I8"),
        ({"x": torch.zeros(0, 6)}, r"bad\.safetensors' is empty"),
        ({"x": torch.zeros(5, 6), "y": torch.zeros(5, 6)}, r"tensors \['x', 'y'\]"),
        ({}, r"tensors \[\]"),
    ],
)
def test_tensors_that_are_no_shard(tmp_path: Path, tensors: dict, match: str) -> None:
    np.save(tmp_path / "a.npy", rows_of(30))
    save_file(tensors, tmp_path / "bad.safetensors")
    refused(tmp_path, match)


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.fault("a pickle in place of a file")
def test_pickles_do_not_run(tmp_path: Path) -> None:
    folder, mark = tmp_path / "shards", tmp_path / "ran"
    folder.mkdir()
    np.save(folder / "bad.npy", np.array([[Payload(mark)]], dtype=object), allow_pickle=True)
    refused(folder, r"bad\.npy' cannot be read")
    (folder / "bad.npy").write_bytes(__import__("pickle").dumps(Payload(mark)))
    refused(folder, r"bad\.npy' cannot be read")
    assert not mark.exists()


@pytest.mark.fault("a shard cut short before it is opened")
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 4, 40, 300, -1])
def test_truncated_shards(tmp_path: Path, suffix: str, keep: int) -> None:
    path = tmp_path / f"bad{suffix}"
    if suffix == ".npy":
        np.save(path, rows_of(30))
    else:
        save_file({"activations": torch.from_numpy(rows_of(30))}, path)
    path.write_bytes(path.read_bytes()[:keep])
    refused(tmp_path, rf"bad\{suffix}' cannot be read")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_rows_that_are_not_finite(tmp_path: Path, value: float) -> None:
    x = rows_of(50).astype(np.float64)
    np.save(tmp_path / "a.npy", x)
    x[37, 2] = value
    np.save(tmp_path / "b.npy", x)
    source = FilesSource(tmp_path, rows_per_block=16)
    with pytest.raises(ConfigError, match=r"b\.npy': row 37 is not finite"):
        source.block(6, "train")
    assert source.block(5, "train").x.isfinite().all()


@pytest.mark.fault("a description that does not fit its shards")
@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", r"source\.json' cannot be read"),
        ("[]", r"source\.json' holds no JSON object"),
        ('{"rows": 60}', "says rows = 60, the shards hold 30"),
        ('{"d_in": 7}', "says d_in = 7, the shards hold 6"),
        ('{"version": 9}', "has version 9; expected 1"),
    ],
)
def test_descriptions_that_do_not_fit(tmp_path: Path, text: str, match: str) -> None:
    np.save(tmp_path / "a.npy", rows_of(30))
    (tmp_path / "source.json").write_text(text)
    refused(tmp_path, match)


def test_settings_that_cannot_be_used(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows_of(1))
    refused(tmp_path, "holds one row")
    with pytest.raises(ConfigError, match="rows_per_block is 0"):
        FilesSource(tmp_path, rows_per_block=0)
    with pytest.raises(ConfigError, match=r"eval_fraction 1\.0"):
        FilesSource(tmp_path, eval_fraction=1.0)
