"""The shards that a cache of activations is written in, and the list of them with their sha256.

`shard-00000.npy` has rows of float16 or float32, `shard-00000.safetensors` rows of bfloat16, which
numpy does not know. Where the source knows them, token ids and positions of the same rows are in
`tokens/`, int32 `[rows, 2]`. Every file is written under a temporary name, synced and renamed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from topk_ortho.checkpoint import atomic
from topk_ortho.config import ConfigError

MANIFEST = "shards.json"
TOKENS = "tokens"
SUFFIX = {"float16": ".npy", "float32": ".npy", "bfloat16": ".safetensors"}
"""By the type of the numbers."""
TOKEN_BYTES = 8
"""Bytes of the token id and the position of a row."""
FLOAT16_MAX = 65504.0


class RowError(ConfigError):
    """A row that no shard of this type can hold: the same call would fail again."""


@dataclass(frozen=True)
class Written:
    """One shard in the manifest.

    Attributes:
        name: of the file.
        rows: activations in it.
        bytes: of the file.
        sha256: of the file.
    """

    name: str
    rows: int
    bytes: int
    sha256: str


def item_bytes(dtype: str) -> int:
    """Returns the bytes of one number."""
    return getattr(torch, dtype).itemsize


def write_shard(
    folder: Path, stem: str, x: Tensor, tokens: Tensor | None, *, dtype: str, first_row: int
) -> Written:
    """Write `x` `[rows, d_in]` and its `tokens` `[rows, 2]` to a folder.

    Args:
        folder: exists.
        stem: name of the files but for their ends.
        x: float32.
        tokens: token id and position of each row, None where they are not known.
        dtype: type of the stored numbers.
        first_row: number of the first row, for messages.

    Raises:
        RowError: a row is not finite, or does not fit `dtype`.
        ConfigError: the disk refuses.
    """
    x = _convert(x, dtype, first_row=first_row)
    if tokens is not None:
        (folder / TOKENS).mkdir(exist_ok=True)
        pairs = tokens.to(torch.int32).numpy()
        _write(folder / TOKENS / f"{stem}.npy", partial(np.save, arr=pairs, allow_pickle=False))
    path = folder / f"{stem}{SUFFIX[dtype]}"
    if dtype == "bfloat16":
        data = save({"activations": x.contiguous()})
        digest = _write(path, lambda file: file.write(data))
    else:
        digest = _write(path, partial(np.save, arr=x.numpy(), allow_pickle=False))
    return Written(path.name, len(x), path.stat().st_size, digest)


def on_disk(path: Path, rows: int) -> Written:
    """Returns the entry of a shard that an earlier process wrote."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Written(path.name, rows, path.stat().st_size, digest)


def write_manifest(path: Path, shards: Iterable[Written]) -> None:
    """Write the list of shards."""
    text = json.dumps({"shards": [asdict(shard) for shard in shards]}, indent=1).encode()
    _write(path, lambda file: file.write(text))


def read_manifest(path: Path) -> list[Written]:
    """Returns the list of shards; none where there is no file.

    Raises:
        ConfigError: it is damaged.
    """
    if not path.exists():
        return []
    try:
        return [Written(**entry) for entry in json.loads(path.read_bytes())["shards"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{str(path)!r} was given, but a list of shards was expected ({error}); write the "
            "folder again, or remove this file, which leaves the shards unchecked."
        ) from error


def check_sizes(folder: Path) -> None:
    """Refuse a folder whose shards are not those of its manifest, by their names and sizes.

    Raises:
        ConfigError: the message names the first.
    """
    for shard in read_manifest(folder / MANIFEST):
        path = folder / shard.name
        size = path.stat().st_size if path.exists() else None
        if size != shard.bytes:
            raise ConfigError(
                f"{str(path)!r} was given with {'no' if size is None else size} bytes, but "
                f"{shard.bytes} were expected by {MANIFEST}; restore it, or write the folder again."
            )


def check_contents(folder: Path) -> None:
    """Refuse a folder whose shards are not those of its manifest, by their sha256.

    Raises:
        ConfigError: the message names the first.
    """
    check_sizes(folder)
    for shard in read_manifest(folder / MANIFEST):
        found = on_disk(folder / shard.name, shard.rows).sha256
        if found != shard.sha256:
            raise ConfigError(
                f"{str(folder / shard.name)!r} was given with the sha256 {found[:12]}..., but "
                f"{shard.sha256[:12]}... was expected by {MANIFEST}; restore it, or write the "
                "folder again."
            )


def _convert(rows: Tensor, dtype: str, *, first_row: int) -> Tensor:
    finite = rows.isfinite().all(dim=1)
    if not finite.all():
        row = first_row + int((~finite).nonzero()[0])
        raise RowError(f"row {row} is not finite; expected finite activations: check the model.")
    if dtype == "float16":
        large = (rows.abs() > FLOAT16_MAX).any(dim=1)
        if large.any():
            row = int(large.nonzero()[0])
            raise RowError(
                f"row {first_row + row} reaches {float(rows[row].abs().max()):.6g}, more than "
                f"float16 holds ({FLOAT16_MAX:.0f}): give --dtype float32 or bfloat16."
            )
    return rows.to(getattr(torch, dtype))


class _Hashed:
    """A file that is hashed as it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._file.write(data)


def _write(path: Path, fill: Callable[[Any], Any]) -> str:
    """Write a file as a whole or not at all; returns its sha256."""
    digest = ""

    def hashed(file: IO[bytes]) -> None:
        nonlocal digest
        through = _Hashed(file)
        fill(through)
        digest = through.sha256.hexdigest()

    write_whole(path, hashed)
    return digest


def write_whole(path: Path, fill: Callable[[IO[bytes]], Any]) -> None:
    """Fill a file under a temporary name, sync and rename it.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        with atomic.filling(path) as temporary, temporary.open("wb") as file:
            fill(file)
    except OSError as error:
        raise ConfigError(
            f"cannot write {str(path)!r} ({error.strerror}): free space, or choose another folder."
        ) from error
