"""Writes the rows of a source to a folder of `.npy` shards that `FilesSource` reads back.

Memory is one shard. Every shard is written under a temporary name, synced and renamed, and
`source.json` comes last, so a folder with it is whole. Refused: a folder in use, rows that are not
finite or overflow float16.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from topk_ortho.activations.files import DESCRIPTION, VERSION
from topk_ortho.activations.source import Source
from topk_ortho.checkpoint import atomic
from topk_ortho.config import ConfigError

FLOAT16_MAX = 65504.0


def write_cache(
    source: Source,
    folder: str | Path,
    *,
    rows_per_shard: int = 65_536,
    dtype: Literal["float16", "float32"] = "float16",
    max_rows: int | None = None,
    describe: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes the train blocks, then the eval blocks, and returns what `source.json` says.

    Args:
        source: where the rows come from.
        folder: a folder that does not exist or is empty.
        rows_per_shard: rows of a shard; the last may be shorter.
        dtype: type of the shards; float16 keeps three digits and at most 65504.
        max_rows: stop after so many; needed where the source never ends.
        describe: further entries of `source.json` (`model`, `hook`, `context`).

    Raises:
        ConfigError: folder in use or not writable, endless source without `max_rows`, a row that
            is not finite or does not fit the dtype.
    """
    folder = Path(folder)
    least = rows_per_shard if max_rows is None else min(rows_per_shard, max_rows)
    if dtype not in ("float16", "float32") or least < 1:
        raise ConfigError(
            f"dtype is {dtype!r}, rows_per_shard {rows_per_shard}, max_rows {max_rows}; expected "
            "float16 or float32, and at least 1."
        )
    if source.n_blocks("train") is None and max_rows is None:
        raise ConfigError("this source never ends: set `max_rows`.")
    _claim(folder)
    shards = written = 0
    with tqdm(total=max_rows, unit=" rows", desc="activations", disable=None) as progress:
        for rows in _shards(source, rows_per_shard=rows_per_shard, max_rows=max_rows):
            array = _convert(rows, dtype, first_row=written)
            save = partial(np.save, arr=array, allow_pickle=False)
            write_whole(folder / f"shard-{shards:05d}.npy", save)
            shards, written = shards + 1, written + len(rows)
            progress.update(len(rows))
    said = dict(describe or {}) | {
        "d_in": source.d_in,
        "rows": written,
        "dtype": dtype,
        "version": VERSION,
    }
    text = json.dumps(said, indent=2, default=str).encode()
    write_whole(folder / DESCRIPTION, lambda f: f.write(text))
    return said


def _claim(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{str(folder)!r} is in use; expected a new or empty folder: choose another, or remove "
            "it (without source.json it was left unfinished)."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create {str(folder)!r} ({error.strerror}).") from error


def _blocks(source: Source) -> Iterator[Tensor]:
    index = 0
    n_train = source.n_blocks("train")
    while n_train is None or index < n_train:
        yield source.block(index, "train").x
        index += 1
    for index in range(source.n_blocks("eval") or 0):
        yield source.block(index, "eval").x


def _shards(source: Source, *, rows_per_shard: int, max_rows: int | None) -> Iterator[Tensor]:
    """Rows in order, `rows_per_shard` at a time, no more than `max_rows` in all."""
    waiting: list[Tensor] = []
    held = given = 0
    for x in _blocks(source):
        x = x[: None if max_rows is None else max_rows - given - held]
        waiting.append(x)
        held += len(x)
        while held >= rows_per_shard:
            rows = torch.cat(waiting)
            yield rows[:rows_per_shard]
            given += rows_per_shard
            waiting = [rows[rows_per_shard:]]
            held -= rows_per_shard
        if max_rows is not None and given + held >= max_rows:
            break
    if held:
        yield torch.cat(waiting)


def _convert(rows: Tensor, dtype: str, *, first_row: int) -> np.ndarray:
    finite = rows.isfinite().all(dim=1)
    if not finite.all():
        row = first_row + int((~finite).nonzero()[0])
        raise ConfigError(f"row {row} is not finite; expected finite activations: check the model.")
    if dtype == "float16":
        large = (rows.abs() > FLOAT16_MAX).any(dim=1)
        if large.any():
            row = int(large.nonzero()[0])
            raise ConfigError(
                f"row {first_row + row} reaches {float(rows[row].abs().max()):.6g}, more than "
                f"float16 holds ({FLOAT16_MAX:.0f}): use float32."
            )
    return rows.to(getattr(torch, dtype)).numpy()


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
