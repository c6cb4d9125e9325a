"""Writes the rows of a source to a folder of shards that `FilesSource` reads back.

Memory is one shard. `source.json` comes last, so a folder with it is whole. Until then
`unfinished.json` says what is being written: the same call continues after the last shard, and
training refuses the folder. Several processes write disjoint parts of a source; the last of them
to end makes the folder whole. A whole folder can be continued (`append`), where the source has more
rows than were taken. Rows that do not fit leave nothing behind. Refused: a folder in use, a disk
without enough space, rows that are not finite or overflow float16.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topk_ortho.activations import shards
from topk_ortho.activations.buffer import stream_of
from topk_ortho.activations.files import DESCRIPTION, UNFINISHED, VERSION, rows_in
from topk_ortho.activations.part import Part, PartOfSource
from topk_ortho.activations.shards import MANIFEST, SUFFIX, RowError, Written, write_whole
from topk_ortho.activations.source import Source, Split
from topk_ortho.checkpoint.locks import Held, claimed, locked
from topk_ortho.config import ConfigError
from topk_ortho.machine.phases import phase

WHOLE = Part()
LOCK = ".lock"


@dataclass(frozen=True)
class Plan:
    """One call of `write_cache`: what is written where.

    Attributes:
        told: entries of `source.json` but the number of rows.
        dtype: type of the stored numbers.
        rows_per_shard: rows of a shard; the last may be shorter.
        max_rows: rows in all, None for as many as there are.
        part: which part of the source.
        append: whether a whole folder is continued.
    """

    folder: Path
    told: dict[str, Any]
    dtype: str
    rows_per_shard: int
    max_rows: int | None
    part: Part
    append: bool

    def as_json(self) -> dict[str, Any]:
        """Returns what every process that writes the folder agrees on."""
        said = self.told | {"rows_per_shard": self.rows_per_shard, "max_rows": self.max_rows}
        said |= {"parts": self.part.of} if self.part.of > 1 else {}
        return json.loads(json.dumps(said | ({"append": True} if self.append else {}), default=str))

    @property
    def marker(self) -> Path:
        return self.folder / UNFINISHED

    @property
    def done(self) -> Path:
        """Returns the list of shards that says that the part is written."""
        return self.folder / (f"{self.part.stem}{MANIFEST}" if self.part.of > 1 else MANIFEST)

    def shard(self, number: int) -> Path:
        return self.folder / f"{self.part.stem}shard-{number:05d}{SUFFIX[self.dtype]}"

    def lock(self) -> Any:
        """Returns a context of one process at a time, where several write."""
        return locked(self.folder / LOCK) if self.part.of > 1 else nullcontext()


def write_cache(
    source: Source,
    folder: str | Path,
    *,
    rows_per_shard: int = 65_536,
    dtype: str = "float16",
    max_rows: int | None = None,
    describe: dict[str, Any] | None = None,
    part: Part = WHOLE,
    append: bool = False,
) -> dict[str, Any]:
    """Writes the train blocks, then the eval blocks, and returns what `source.json` says.

    Args:
        source: where the rows come from.
        folder: a folder that does not exist, is empty, or where the same call was stopped.
        rows_per_shard: rows of a shard; the last may be shorter.
        dtype: type of the shards; float16 keeps three digits and at most 65504.
        max_rows: stop after so many; needed where the source never ends.
        describe: further entries of `source.json` (`model`, `hook`, `context`).
        part: write this part of the source alone; rows are those of the part until all are there.
        append: continue a whole folder of the same source up to `max_rows` in all.

    Raises:
        ConfigError: folder in use or not writable, endless source without `max_rows`, a row that
            is not finite or does not fit the dtype, too little space.
    """
    _check(source, dtype, rows_per_shard, max_rows, part)
    said = dict(describe or {}) | {"d_in": source.d_in, "dtype": dtype, "version": VERSION}
    plan = Plan(Path(folder), said, dtype, rows_per_shard, max_rows, part, append)
    source = source if part == WHOLE else PartOfSource(source, part)
    with _claimed(plan):
        try:
            written = _write(source, plan)
        except RowError:
            _remove(plan)
            raise
        shards.write_manifest(plan.done, written)
        with plan.lock():
            return _finish(plan, written)


def size_on_disk(
    source: Source, *, dtype: str, max_rows: int | None = None, part: Part = WHOLE
) -> tuple[int | None, int]:
    """Returns the rows that a cache will have, None where that is not known before, and the bytes
    of each on the disk."""
    each = source.d_in * shards.item_bytes(dtype)
    each += shards.TOKEN_BYTES if hasattr(source, "tokens_of") else 0
    known = getattr(source if part == WHOLE else PartOfSource(source, part), "rows_of", None)
    if known is None or source.n_blocks("train") is None:
        return max_rows, each
    within = source if part == WHOLE else PartOfSource(source, part)
    rows = sum(known(index, split) for index, split in _places(within))
    return (rows if max_rows is None else min(rows, max_rows)), each


def check_space(folder: Path, needed: int) -> None:
    """Refuse what the disk of a folder has no space for.

    Raises:
        ConfigError: fewer bytes are free than are needed.
    """
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ConfigError(
            f"--out {folder} was given, and {needed / 1e9:,.1f} GB more will be written, but its "
            f"disk has {free / 1e9:,.1f} GB free; give another folder, a lower --max-rows, or a "
            "smaller --dtype."
        )


def _check(
    source: Source, dtype: str, rows_per_shard: int, max_rows: int | None, part: Part
) -> None:
    least = rows_per_shard if max_rows is None else min(rows_per_shard, max_rows)
    if dtype not in SUFFIX or least < 1:
        raise ConfigError(
            f"dtype is {dtype!r}, rows_per_shard {rows_per_shard}, max_rows {max_rows}; expected "
            "float16, bfloat16 or float32, and at least 1."
        )
    endless = source.n_blocks("train") is None and stream_of(source) is None
    if endless and max_rows is None:
        raise ConfigError(
            "a source that never ends was given without a number of rows, but it is needed; give "
            "--max-rows."
        )
    if part != WHOLE and (max_rows is not None or source.n_blocks("train") is None):
        raise ConfigError(
            f"--part {part.number}/{part.of} was given with --max-rows, or text without an end, "
            "but parts divide all of the text; leave --max-rows out, or write without --part."
        )


def _write(source: Source, plan: Plan) -> list[Written]:
    """Writes the shards that are not there yet; returns the list of all."""
    listed = {each.name: each for each in shards.read_manifest(plan.folder / MANIFEST)}
    there: list[Written] = []
    while (path := plan.shard(len(there))).exists():
        there.append(listed.get(path.name) or shards.on_disk(path, rows_in(path)))
    before = sum(each.rows for each in there)
    written = before
    with phase("writing activations", total=plan.max_rows, unit="rows") as shown:
        shown.begin_at(before)
        per_shard, limit = plan.rows_per_shard, plan.max_rows
        for rows in _shards(source, rows_per_shard=per_shard, max_rows=limit, skip=before):
            there.append(
                shards.write_shard(
                    plan.folder,
                    plan.shard(len(there)).stem,
                    *rows,
                    dtype=plan.dtype,
                    first_row=written,
                )
            )
            written += len(rows.x)
            shown.advance(len(rows.x))
    return there


def _finish(plan: Plan, written: list[Written]) -> dict[str, Any]:
    """Make the folder whole, where all parts are there; returns what is said about it."""
    parts = [Part(n, plan.part.of) for n in range(1, plan.part.of + 1)]
    lists = [plan.folder / f"{part.stem}{MANIFEST}" for part in parts]
    if plan.part.of > 1:
        if not all(path.exists() for path in lists):
            return plan.told | {"rows": sum(each.rows for each in written)}
        written = [each for path in lists for each in shards.read_manifest(path)]
        shards.write_manifest(plan.folder / MANIFEST, written)
    said = plan.told | {"rows": sum(each.rows for each in written)}
    text = json.dumps(said, indent=2, default=str).encode()
    write_whole(plan.folder / DESCRIPTION, lambda f: f.write(text))
    plan.marker.unlink()
    if plan.part.of > 1:
        for path in (*lists, *plan.folder.glob("part-*.writing"), plan.folder / LOCK):
            path.unlink(missing_ok=True)
    return said


@contextmanager
def _claimed(plan: Plan) -> Iterator[None]:
    """Check that a folder is new, empty, or was left by the same call, and lock it."""
    folder, marker = plan.folder, plan.marker
    own = marker if plan.part == WHOLE else folder / f"{plan.part.stem.rstrip('-')}.writing"
    try:
        with plan.lock():
            _begin(plan)
            if own != marker:
                own.touch()
    except OSError as error:
        raise ConfigError(f"cannot create {str(folder)!r} ({error.strerror}).") from error
    try:
        with claimed(own):
            yield
    except Held:
        raise ConfigError(
            f"{str(folder)!r} was given, but another process is writing it; wait for it to end."
        ) from None
    finally:
        if plan.part == WHOLE and not any(folder.glob(f"*{SUFFIX[plan.dtype]}")):
            marker.unlink(missing_ok=True)


def _begin(plan: Plan) -> None:
    """Mark a new folder, or one that is continued, as unfinished; refuse any other in use."""
    folder, marker = plan.folder, plan.marker
    in_use = folder.exists() and (
        not folder.is_dir() or any(path.name != LOCK for path in folder.iterdir())
    )
    said = plan.as_json()
    if in_use and _read(marker) == said:
        return
    if plan.append:
        _check_appendable(plan)
    elif in_use:
        left = " (it was left unfinished by a call with other options)" if marker.exists() else ""
        raise ConfigError(
            f"{str(folder)!r} is in use{left}; expected a new or empty folder: choose another, or "
            "remove it (without source.json it was left unfinished)."
        )
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(said, indent=2), encoding="utf-8")


def _check_appendable(plan: Plan) -> None:
    """Refuse to continue a folder that is not whole, or that was written from something else."""
    there = _read(plan.folder / DESCRIPTION)
    told = json.loads(json.dumps(plan.told, default=str))
    listed = shards.read_manifest(plan.folder / MANIFEST)
    of_parts = any(each.name.startswith("part-") for each in listed)
    if of_parts or plan.part != WHOLE:
        raise ConfigError(
            f"--append was given for {str(plan.folder)!r} with parts, but they hold all of their "
            "text already; write other text to a folder of its own."
        )
    if plan.marker.exists() or not isinstance(there, dict):
        raise ConfigError(
            f"--append was given, but {str(plan.folder)!r} is no whole folder; "
            "finish it first with the command that began it, without --append."
        )
    rows = there.pop("rows", 0)
    differing = next((k for k in {**told, **there} if told.get(k) != there.get(k)), None)
    if differing is not None:
        raise ConfigError(
            f"--append was given, but {str(plan.folder)!r} has {differing} = "
            f"{there.get(differing)!r}, and this call {told.get(differing)!r}; continue it with "
            "the model, hook point, text and type that it was begun with."
        )
    if plan.max_rows is not None and plan.max_rows <= rows:
        raise ConfigError(
            f"--append and --max-rows {plan.max_rows} were given, but {str(plan.folder)!r} has "
            f"{rows} rows already; raise --max-rows, which counts all."
        )
    shards.check_contents(plan.folder)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _remove(plan: Plan) -> None:
    """Remove what this call wrote; the folder as well, where nothing else is in it."""
    before = shards.read_manifest(plan.folder / MANIFEST) if plan.append else []
    kept = {Path(each.name).stem for each in before}
    stem = f"{plan.part.stem}shard-*"
    tokens = plan.folder / shards.TOKENS
    for path in [*plan.folder.glob(stem), *tokens.glob(stem)]:
        if path.stem not in kept:
            path.unlink()
    if plan.part == WHOLE:
        plan.marker.unlink(missing_ok=True)
    for folder in (tokens, plan.folder):
        with suppress(OSError):
            folder.rmdir()


class _Rows(NamedTuple):
    """Rows of activations `[rows, d_in]`, and their token ids and positions `[rows, 2]`."""

    x: Tensor
    tokens: Tensor | None

    def cut(self, where: slice) -> _Rows:
        return _Rows(self.x[where], None if self.tokens is None else self.tokens[where])


def _joined(parts: list[_Rows]) -> _Rows:
    tokens = [part.tokens for part in parts if part.tokens is not None]
    return _Rows(torch.cat([part.x for part in parts]), torch.cat(tokens) if tokens else None)


def _places(source: Source) -> Iterator[tuple[int, Split]]:
    """Yields the blocks of a source in the order of a cache: those of training first."""
    n_train, n_eval = source.n_blocks("train"), source.n_blocks("eval") or 0
    train: Iterator[int] = itertools.count() if n_train is None else iter(range(n_train))
    if (stream := stream_of(source)) is not None:  # one pass over it
        train = itertools.takewhile(lambda index: not stream.over(index), train)
    yield from ((index, "train") for index in train)
    yield from ((index, "eval") for index in range(n_eval))


def _blocks(source: Source, *, skip: int) -> Iterator[_Rows]:
    """Rows of all blocks in order but for the first `skip`.

    Blocks of rows that are skipped are not computed where the source knows how many it has.
    """
    known, tokens_of = (getattr(source, name, None) for name in ("rows_of", "tokens_of"))
    for index, split in _places(source):
        if skip and known is not None and known(index, split) <= skip:
            skip -= known(index, split)
            continue
        x = source.block(index, split).x
        tokens = None if tokens_of is None else tokens_of(index, split)
        yield _Rows(x, tokens).cut(slice(skip, None))
        skip -= min(skip, len(x))


def _shards(
    source: Source, *, rows_per_shard: int, max_rows: int | None, skip: int = 0
) -> Iterator[_Rows]:
    """Rows in order from `skip` on, `rows_per_shard` at a time, no more than `max_rows` in all."""
    waiting: list[_Rows] = []
    held, given = 0, skip
    if max_rows is not None and given >= max_rows:
        return
    for rows in _blocks(source, skip=skip):
        rows = rows.cut(slice(None if max_rows is None else max_rows - given - held))
        waiting.append(rows)
        held += len(rows.x)
        while held >= rows_per_shard:
            joined = _joined(waiting)
            yield joined.cut(slice(rows_per_shard))
            given += rows_per_shard
            waiting = [joined.cut(slice(rows_per_shard, None))]
            held -= rows_per_shard
        if max_rows is not None and given + held >= max_rows:
            break
    if held:
        yield _joined(waiting)
