"""Caches of other types, in parts, continued, and checked against their list of shards."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests import tiny_llama
from tests.activations.test_cache import Counted, Rows, Stopped, read, rows
from topk_ortho.activations.cache import check_space, size_on_disk, write_cache
from topk_ortho.activations.files import FilesSource
from topk_ortho.activations.part import Part
from topk_ortho.activations.shards import check_contents, read_manifest
from topk_ortho.config import ConfigError


class WithTokens(Counted):
    """Token id and position of row n are 2 n and n."""

    def tokens_of(self, index: int, split: str) -> torch.Tensor:
        start = 10 * (index if split == "train" else self.n_blocks("train"))
        number = torch.arange(start, min(start + 10, len(self.x)))
        return torch.stack([2 * number, number], dim=1)


def stored(folder: Path) -> torch.Tensor:
    """All rows, as training reads them."""
    source = FilesSource(folder)
    places = [(i, s) for s in ("train", "eval") for i in range(source.n_blocks(s))]
    return torch.cat([source.block(*place).x for place in places])


def tokens(folder: Path) -> np.ndarray:
    return np.concatenate([np.load(path) for path in sorted((folder / "tokens").iterdir())])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_type_is_read_back_with_its_tokens(tmp_path: Path, dtype: str) -> None:
    x, folder = rows(), tmp_path / "cache"
    x[33, 1] = 60_000.0
    said = write_cache(WithTokens(x), folder, rows_per_shard=20, dtype=dtype)
    assert said["dtype"] == dtype
    assert torch.equal(stored(folder), x.to(getattr(torch, dtype)).float())
    assert np.array_equal(tokens(folder), np.arange(47)[:, None] * [2, 1])
    for shard in read_manifest(folder / "shards.json"):
        content = (folder / shard.name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == shard.sha256
        assert len(content) == shard.bytes
    assert [shard.rows for shard in read_manifest(folder / "shards.json")] == [20, 20, 7]
    check_contents(folder)


def test_bfloat16_holds_what_float16_does_not(tmp_path: Path) -> None:
    x = rows()
    x[3, 0] = 1e6
    with pytest.raises(ConfigError, match="give --dtype float32 or bfloat16"):
        write_cache(Rows(x), tmp_path / "a")
    write_cache(Rows(x), tmp_path / "b", dtype="bfloat16")
    with safe_open(tmp_path / "b" / "shard-00000.safetensors", framework="pt") as file:
        assert file.get_tensor("activations").dtype == torch.bfloat16


@pytest.mark.fault("a cache whose shards were changed")
def test_shards_that_were_changed_are_found(tmp_path: Path) -> None:
    write_cache(Rows(rows()), tmp_path, rows_per_shard=20, dtype="float32")
    path = tmp_path / "shard-00001.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    FilesSource(tmp_path)  # sizes alone are looked at
    with pytest.raises(ConfigError, match=r"shard-00001\.npy' was given with the sha256"):
        check_contents(tmp_path)
    path.write_bytes(whole[:-4])
    with pytest.raises(ConfigError, match=r"shard-00001\.npy' was given with .* bytes, but"):
        FilesSource(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match="was given with no bytes"):
        FilesSource(tmp_path)
    (tmp_path / "shards.json").write_text("[]")
    with pytest.raises(ConfigError, match="a list of shards was expected"):
        FilesSource(tmp_path)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_make_the_same_rows(tmp_path: Path, order: tuple[int, ...]) -> None:
    x, folder = rows(), tmp_path / "cache"
    for number in order:
        with pytest.raises(ConfigError):
            FilesSource(folder)
        said = write_cache(
            WithTokens(x), folder, rows_per_shard=7, dtype="float32", part=Part(number, 3)
        )
    assert said["rows"] == 47
    assert torch.equal(stored(folder), x)
    assert np.array_equal(tokens(folder), np.arange(47)[:, None] * [2, 1])
    left = {path.name for path in folder.iterdir() if not path.name.startswith("part-")}
    assert left == {"source.json", "shards.json", "tokens"}
    check_contents(folder)


@pytest.mark.fault("a cache whose writing was interrupted")
def test_a_part_that_was_stopped_continues(tmp_path: Path) -> None:
    how = {"rows_per_shard": 10, "dtype": "float32"}
    write_cache(Rows(rows()), tmp_path, part=Part(2, 2), **how)
    Stopped.at = 1
    with pytest.raises(KeyboardInterrupt):
        write_cache(Stopped(rows()), tmp_path, part=Part(1, 2), **how)
    Stopped.at = 2
    with pytest.raises(ConfigError, match="has not written all of its shards"):
        FilesSource(tmp_path)
    assert write_cache(Rows(rows()), tmp_path, part=Part(1, 2), **how)["rows"] == 47
    assert torch.equal(stored(tmp_path), rows())


def test_parts_of_another_number_do_not_mix(tmp_path: Path) -> None:
    write_cache(Rows(rows()), tmp_path, part=Part(1, 2))
    with pytest.raises(ConfigError, match="left unfinished by a call with other options"):
        write_cache(Rows(rows()), tmp_path, part=Part(2, 3))
    with pytest.raises(ConfigError, match="parts divide all of the text"):
        write_cache(Rows(rows()), tmp_path, part=Part(2, 2), max_rows=3)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(ConfigError, match="a part such as 2/8 was expected"):
        Part.parse(text)
    assert Part.parse("2/8") == Part(2, 8)


def test_a_whole_folder_is_continued(tmp_path: Path) -> None:
    how = {"rows_per_shard": 10, "dtype": "float32", "describe": {"model": "m"}}
    write_cache(WithTokens(rows()), tmp_path, max_rows=13, **how)
    first = read_manifest(tmp_path / "shards.json")
    for limit in (29, None):
        said = write_cache(WithTokens(rows()), tmp_path, max_rows=limit, append=True, **how)
        assert said["rows"] == (limit or 47)
        assert torch.equal(stored(tmp_path), rows()[:limit])
    assert read_manifest(tmp_path / "shards.json")[:2] == first
    assert np.array_equal(tokens(tmp_path), np.arange(47)[:, None] * [2, 1])
    assert FilesSource(tmp_path).described == said


@pytest.mark.fault("a cache whose writing was interrupted")
def test_an_interrupted_continuation_continues(tmp_path: Path) -> None:
    how = {"rows_per_shard": 10, "dtype": "float32"}
    write_cache(Rows(rows()), tmp_path, max_rows=13, **how)
    Stopped.at = 3
    with pytest.raises(KeyboardInterrupt):
        write_cache(Stopped(rows()), tmp_path, append=True, **how)
    Stopped.at = 2
    with pytest.raises(ConfigError, match="has not written all of its shards"):
        FilesSource(tmp_path)
    assert write_cache(Rows(rows()), tmp_path, append=True, **how)["rows"] == 47
    assert torch.equal(stored(tmp_path), rows())


@pytest.mark.fault("a row that a cache cannot hold")
def test_a_continuation_that_does_not_fit_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    x = rows()
    x[33, 1] = 70_000.0
    write_cache(WithTokens(x), tmp_path, rows_per_shard=10, max_rows=20)
    with pytest.raises(ConfigError, match="row 33 reaches 70000"):
        write_cache(WithTokens(x), tmp_path, rows_per_shard=10, append=True)
    assert len(stored(tmp_path)) == len(tokens(tmp_path)) == 20


@pytest.mark.fault("a cache folder in use")
def test_what_cannot_be_continued(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no whole folder"):
        write_cache(Rows(rows()), tmp_path / "new", append=True)
    how = {"rows_per_shard": 10, "describe": {"model": "m"}}
    write_cache(Rows(rows()), tmp_path, max_rows=20, **how)
    for changed, said in (
        ({"describe": {"model": "other"}}, "has model = 'm', and this call 'other'"),
        ({"dtype": "float32"}, "has dtype = 'float16', and this call 'float32'"),
        ({"max_rows": 20}, "has 20 rows already; raise --max-rows"),
    ):
        with pytest.raises(ConfigError, match=said):
            write_cache(Rows(rows()), tmp_path, append=True, **(how | changed))
    assert len(stored(tmp_path)) == 20
    for number in (1, 2):
        write_cache(Rows(rows()), tmp_path / "parts", part=Part(number, 2))
    for part in (Part(), Part(1, 2)):
        with pytest.raises(ConfigError, match="with parts, but they hold all of their text"):
            write_cache(Rows(rows()), tmp_path / "parts", part=part, append=True)
    assert len(stored(tmp_path / "parts")) == 47


def test_the_size_is_known_before(tmp_path: Path) -> None:
    source = WithTokens(rows())
    assert size_on_disk(Rows(rows()), dtype="float16") == (None, 6)
    assert size_on_disk(Rows(rows()), dtype="float16", max_rows=5) == (5, 6)
    assert size_on_disk(source, dtype="float32") == (47, 20)
    assert size_on_disk(source, dtype="bfloat16", max_rows=30) == (30, 14)
    assert sum(size_on_disk(source, dtype="float16", part=Part(n, 3))[0] for n in (1, 2, 3)) == 47
    write_cache(source, tmp_path / "cache", dtype="float32", rows_per_shard=47)
    files = list((tmp_path / "cache").rglob("*.npy"))
    assert 0 <= sum(path.stat().st_size for path in files) - 47 * 20 <= 2 * 128


@pytest.mark.fault("a disk too small for a cache")
def test_a_disk_without_space_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 0, 1000))
    check_space(tmp_path / "a" / "b", 1000)
    with pytest.raises(ConfigError, match=r"its disk has 0\.0 GB free"):
        check_space(tmp_path / "a" / "b", 1001)


def test_the_tokens_of_a_language_model(tmp_path: Path) -> None:
    from topk_ortho.activations.language_model import LanguageModelSource
    from topk_ortho.activations.models import LanguageModel
    from topk_ortho.activations.text import pack_contexts

    model = LanguageModel.load(tiny_llama.shared())
    contexts = pack_contexts(model.tokenizer, tiny_llama.stories(), 16)
    source = LanguageModelSource(model, contexts, "blocks.0.hook_resid_post")
    write_cache(source, tmp_path, dtype="float32", rows_per_shard=100)
    pairs = tokens(tmp_path)
    text = contexts[: len(contexts)]
    kept = text != model.bos
    assert np.array_equal(pairs[:, 0], text[kept][: len(pairs)].numpy())
    assert len(read(tmp_path)) == len(pairs)
    assert json.loads((tmp_path / "source.json").read_text())["rows"] == len(pairs)
    first = model.activations(contexts[:1], source.hook)[0, 1:]
    assert torch.allclose(stored(tmp_path)[:15], first, atol=1e-5)
    assert pairs[:15, 1].tolist() == list(range(1, 16))
