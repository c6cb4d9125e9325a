"""Writes the rows of a source to a folder of `.npy` shards that `FilesSource` reads back.

Memory is one shard. Every shard is written under a temporary name, synced and renamed, and
`source.json` comes last, so a folder with it is whole. Until then `unfinished.json` says what is
being written: the same call continues after the last whole shard, and training refuses the folder.
Rows that do not fit leave nothing behind. Refused: a folder in use, rows that are not finite or
overflow float16.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from topk_ortho.activations.buffer import stream_of
from topk_ortho.activations.files import DESCRIPTION, UNFINISHED, VERSION
from topk_ortho.activations.source import Source, Split
from topk_ortho.checkpoint import atomic
from topk_ortho.checkpoint.locks import Held, claimed
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
        folder: a folder that does not exist, is empty, or where the same call was stopped.
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
    endless = source.n_blocks("train") is None and stream_of(source) is None
    if endless and max_rows is None:
        raise ConfigError(
            "a source that never ends was given without a number of rows, but it is needed; give "
            "--max-rows."
        )
    said = dict(describe or {}) | {"d_in": source.d_in, "dtype": dtype, "version": VERSION}
    plan = json.loads(json.dumps(said | {"rows_per_shard": rows_per_shard, "max_rows": max_rows},
                                 default=str))  # fmt: skip
    with _claimed(folder, plan):
        try:
            written = _write(source, folder, dtype=dtype, per_shard=rows_per_shard, limit=max_rows)
        except RowError:
            _remove(folder)
            raise
        said = {**said, "rows": written}
        text = json.dumps(said, indent=2, default=str).encode()
        write_whole(folder / DESCRIPTION, lambda f: f.write(text))
        (folder / UNFINISHED).unlink()
    return said


class RowError(ConfigError):
    """A row that no shard of this type can hold: the same call would fail again."""


def _write(source: Source, folder: Path, *, dtype: str, per_shard: int, limit: int | None) -> int:
    """Writes the shards that are not there yet; the number of rows in all."""
    shards = 0
    while (folder / _name(shards)).exists():
        shards += 1
    written = shards * per_shard
    if shards:  # the last of a finished folder may be shorter
        last = np.load(folder / _name(shards - 1), mmap_mode="r", allow_pickle=False)
        written -= per_shard - len(last)
    with tqdm(total=limit, initial=written, unit=" rows", desc="activations", disable=None) as bar:
        for rows in _shards(source, rows_per_shard=per_shard, max_rows=limit, skip=written):
            array = _convert(rows, dtype, first_row=written)
            save = partial(np.save, arr=array, allow_pickle=False)
            write_whole(folder / _name(shards), save)
            shards, written = shards + 1, written + len(rows)
            bar.update(len(rows))
    return written


def _name(shard: int) -> str:
    return f"shard-{shard:05d}.npy"


@contextmanager
def _claimed(folder: Path, plan: dict[str, Any]) -> Iterator[None]:
    """Check that a folder is new, empty, or was left by the same call, and lock it."""
    marker = folder / UNFINISHED
    in_use = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if in_use and _plan(marker) != plan:
        left = " (it was left unfinished by a call with other options)" if marker.exists() else ""
        raise ConfigError(
            f"{str(folder)!r} is in use{left}; expected a new or empty folder: choose another, or "
            "remove it (without source.json it was left unfinished)."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not in_use:
            marker.write_text(json.dumps(plan, indent=2), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot create {str(folder)!r} ({error.strerror}).") from error
    try:
        with claimed(marker):
            yield
    except Held:
        raise ConfigError(
            f"{str(folder)!r} was given, but another process is writing it; wait for it to end."
        ) from None
    finally:
        if not any(folder.glob("*.npy")):
            marker.unlink(missing_ok=True)


def _plan(marker: Path) -> Any:
    try:
        return json.loads(marker.read_bytes())
    except (OSError, ValueError):
        return None


def _remove(folder: Path) -> None:
    """Remove what this package wrote; the folder as well, where nothing else is in it."""
    for path in [*folder.glob("shard-*.npy"), folder / UNFINISHED]:
        path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _blocks(source: Source, *, skip: int) -> Iterator[Tensor]:
    """Rows of all blocks in order but for the first `skip`.

    Blocks of rows that are skipped are not computed where the source knows how many it has.
    """
    n_train, n_eval = source.n_blocks("train"), source.n_blocks("eval") or 0
    train: Iterator[int] = itertools.count() if n_train is None else iter(range(n_train))
    if (stream := stream_of(source)) is not None:
        train = itertools.takewhile(lambda index: not stream.over(index), train)
    places: Iterator[tuple[int, Split]] = itertools.chain(
        ((index, "train") for index in train), ((index, "eval") for index in range(n_eval))
    )
    for index, split in places:
        known = getattr(source, "rows_of", None)
        if skip and known is not None and known(index, split) <= skip:
            skip -= known(index, split)
            continue
        x = source.block(index, split).x
        yield x[skip:]
        skip -= min(skip, len(x))


def _shards(
    source: Source, *, rows_per_shard: int, max_rows: int | None, skip: int = 0
) -> Iterator[Tensor]:
    """Rows in order from `skip` on, `rows_per_shard` at a time, no more than `max_rows` in all."""
    waiting: list[Tensor] = []
    held, given = 0, skip
    if max_rows is not None and given >= max_rows:
        return
    for x in _blocks(source, skip=skip):
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
        raise RowError(f"row {row} is not finite; expected finite activations: check the model.")
    if dtype == "float16":
        large = (rows.abs() > FLOAT16_MAX).any(dim=1)
        if large.any():
            row = int(large.nonzero()[0])
            raise RowError(
                f"row {first_row + row} reaches {float(rows[row].abs().max()):.6g}, more than "
                f"float16 holds ({FLOAT16_MAX:.0f}): give --dtype float32."
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
