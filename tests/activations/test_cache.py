"""Writing activations to shards and reading them back."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from topk_ortho.activations.cache import write_cache
from topk_ortho.activations.files import FilesSource
from topk_ortho.activations.source import Block
from topk_ortho.config import ConfigError


class Rows:
    """A source of given rows: 10 a block, the last block is eval."""

    truth = None

    def __init__(self, x: torch.Tensor) -> None:
        self.x, self.d_in = x, x.shape[1]

    def n_blocks(self, split: str) -> int:
        return 1 if split == "eval" else -(-len(self.x) // 10) - 1

    def block(self, index: int, split: str) -> Block:
        start = 10 * (index if split == "train" else self.n_blocks("train"))
        return Block(self.x[start : start + 10], None)


class Endless(Rows):
    def n_blocks(self, split: str) -> int | None:
        return None if split == "train" else 1

    def block(self, index: int, split: str) -> Block:
        return Block(self.x + index, None)


def rows(n: int = 47, d_in: int = 3) -> torch.Tensor:
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(0))


def read(folder: Path) -> np.ndarray:
    return np.concatenate([np.load(path) for path in sorted(folder.glob("*.npy"))])


@pytest.mark.parametrize("per_shard", [1, 7, 10, 47, 1000])
def test_round_trip(tmp_path: Path, per_shard: int) -> None:
    x, folder = rows(), tmp_path / "new" / "folder"
    described = {"hook": "h", "model": "m", "context": 128}
    said = write_cache(
        Rows(x), folder, rows_per_shard=per_shard, dtype="float32", describe=described
    )
    assert said == described | {"d_in": 3, "rows": 47, "dtype": "float32", "version": 1}
    assert json.loads((folder / "source.json").read_text()) == said
    sizes = [len(np.load(path)) for path in sorted(folder.glob("*.npy"))]
    assert sum(sizes) == 47 and set(sizes[:-1]) <= {per_shard}
    assert np.array_equal(read(folder), x.numpy())
    source = FilesSource(folder)
    assert source.rows == 47 and source.described == said
    assert not list(folder.glob(".*")), "a temporary file was left"


def test_float16_is_the_default(tmp_path: Path) -> None:
    write_cache(Rows(rows()), tmp_path)
    stored = read(tmp_path)
    assert stored.dtype == np.float16
    assert np.array_equal(stored, rows().half().numpy())


@pytest.mark.parametrize("limit", [1, 10, 23, 47, 100])
def test_max_rows(tmp_path: Path, limit: int) -> None:
    said = write_cache(Rows(rows()), tmp_path, rows_per_shard=7, dtype="float32", max_rows=limit)
    assert said["rows"] == min(limit, 47)
    assert np.array_equal(read(tmp_path), rows()[:limit].numpy())


def test_endless_sources_need_a_limit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"never ends.* give --max-rows"):
        write_cache(Endless(rows()), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert write_cache(Endless(rows()), tmp_path / "a", max_rows=200)["rows"] == 200


@pytest.mark.fault("a cache folder in use")
def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="is in use"):
        write_cache(Rows(rows()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(ConfigError, match="is in use"):
        write_cache(Rows(rows()), tmp_path / "mine.txt")
    with pytest.raises(ConfigError, match="cannot create"):
        write_cache(Rows(rows()), tmp_path / "mine.txt" / "below")


def test_rows_that_do_not_fit(tmp_path: Path) -> None:
    x = rows()
    x[33, 1] = -70_000.0
    with pytest.raises(
        ConfigError, match=r"row 33 reaches 70000, more than float16.*--dtype float32"
    ):
        write_cache(Rows(x), tmp_path / "a", rows_per_shard=7)
    assert not (tmp_path / "a" / "source.json").exists()
    assert write_cache(Rows(x), tmp_path / "b", dtype="float32")["rows"] == 47
    x[33, 1] = 65_504.0
    assert write_cache(Rows(x), tmp_path / "c")["rows"] == 47
    x[12, 0] = float("nan")
    with pytest.raises(ConfigError, match="row 12 is not finite"):
        write_cache(Rows(x), tmp_path / "d", rows_per_shard=7)


def test_settings_that_cannot_be_used(tmp_path: Path) -> None:
    for setting in ({"dtype": "float8"}, {"rows_per_shard": 0}, {"max_rows": 0}):
        with pytest.raises(ConfigError, match="float16, bfloat16 or float32, and at least 1"):
            write_cache(Rows(rows()), tmp_path, **setting)


@pytest.mark.fault("a disk that is full when activations are cached")
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("topk_ortho.checkpoint.atomic.os.fsync", full)
    with pytest.raises(ConfigError, match=r"shard-00000\.npy' \(No space left on device\)"):
        write_cache(Rows(rows()), tmp_path)
    assert not list(tmp_path.iterdir())


class Stopped(Rows):
    """Stops before a block, as Ctrl-C does."""

    at = 2

    def block(self, index: int, split: str) -> Block:
        if split == "train" and index == self.at:
            raise KeyboardInterrupt
        return super().block(index, split)


@pytest.mark.fault("a cache whose writing was interrupted")
def test_an_interrupted_write_is_no_whole_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_cache(Stopped(rows()), tmp_path, rows_per_shard=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "shard-00000.npy",
        "shard-00001.npy",
        "unfinished.json",
    ]
    with pytest.raises(ConfigError, match=r"without source\.json it was left unfinished"):
        write_cache(Rows(rows()), tmp_path)
    with pytest.raises(ConfigError, match="has not written all of its shards; give the same"):
        FilesSource(tmp_path)


class Counted(Rows):
    """Knows how many rows its blocks have, as a language model's source does."""

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__(x)
        self.asked: list[tuple[str, int]] = []

    def rows_of(self, index: int, split: str) -> int:
        return len(super().block(index, split).x)

    def block(self, index: int, split: str) -> Block:
        self.asked.append((split, index))
        return super().block(index, split)


@pytest.mark.fault("a cache whose writing was interrupted")
@pytest.mark.parametrize("per_shard", [3, 10, 17])
@pytest.mark.parametrize("limit", [None, 35])
@pytest.mark.parametrize("source", [Rows, Counted])
def test_the_same_call_continues(
    tmp_path: Path, per_shard: int, limit: int | None, source: type[Rows]
) -> None:
    how = {"rows_per_shard": per_shard, "dtype": "float32", "max_rows": limit}
    folder = tmp_path / "cache"
    for at in (2, 3):
        Stopped.at = at
        with pytest.raises(KeyboardInterrupt):
            write_cache(Stopped(rows()), folder, **how)
    kept = [(path.name, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.npy"))]
    again = source(rows())
    said = write_cache(again, folder, **how)
    assert np.array_equal(read(folder), rows()[:limit].numpy())
    assert kept == [
        (p.name, p.stat().st_mtime_ns) for p in sorted(folder.glob("*.npy"))[: len(kept)]
    ]
    assert FilesSource(folder).described == said
    assert not (folder / "unfinished.json").exists()
    if isinstance(again, Counted):
        assert ("train", 0) not in again.asked
    Stopped.at = 2


@pytest.mark.fault("a cache whose writing was interrupted")
def test_a_cache_that_stopped_in_an_earlier_version_is_a_warning(tmp_path: Path) -> None:
    write_cache(Rows(rows()), tmp_path, rows_per_shard=10)
    (tmp_path / "source.json").unlink()
    (tmp_path / "shards.json").unlink()
    (tmp_path / "shard-00004.npy").unlink()
    with pytest.warns(UserWarning, match="no source.json, which it writes last"):
        FilesSource(tmp_path)


@pytest.mark.fault("a row that a cache cannot hold")
def test_rows_that_do_not_fit_leave_nothing_behind(tmp_path: Path) -> None:
    x = rows()
    x[33, 1] = 70_000.0
    with pytest.raises(ConfigError, match="--dtype float32"):
        write_cache(Rows(x), tmp_path / "a", rows_per_shard=7)
    assert not (tmp_path / "a").exists()
    assert write_cache(Rows(x), tmp_path / "a", dtype="float32")["rows"] == 47


@pytest.mark.fault("a cache folder in use")
def test_two_do_not_write_at_once(tmp_path: Path) -> None:
    class Second(Rows):
        def block(self, index: int, split: str) -> Block:
            if index == 2:
                with pytest.raises(ConfigError, match="another process is writing it"):
                    write_cache(Rows(rows()), tmp_path, rows_per_shard=10)
            return super().block(index, split)

    assert write_cache(Second(rows()), tmp_path, rows_per_shard=10)["rows"] == 47
