"""Directories and files that appear whole or not at all, whatever kills the process.

`writing` fills a directory under a temporary name and, once every byte is on disk, renames it;
`filling` and `replace_file` do so with a file.
A directory that is replaced keeps existing as `NAME.replaced` until the new one is in place, so
at every instant one of the two is complete: `existing` finds it. Everything is fsynced; costs one
extra copy on disk while writing. One writer per directory is assumed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = ".tmp-"
"""Names that begin so are unfinished or condemned; they may be deleted at any time."""

REPLACED = ".replaced"
"""Suffix of the directory that a new one is taking the place of."""


@contextlib.contextmanager
def writing(final: Path) -> Iterator[Path]:
    """Give an empty directory to fill; on leaving it becomes `final`, replacing what was there.

    After an exception, or a kill, `final` is what it was before. The caller writes with
    `write_file`, or calls `sync` on each file it wrote by other means.
    """
    _make(final.parent)
    temporary = final.parent / f"{TEMPORARY}{final.name}"
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir()
    try:
        yield temporary
        sync(temporary)
        _replace(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    with contextlib.suppress(OSError):  # the new one is in place; the next writer tries again
        discard(final.with_name(final.name + REPLACED))


def _make(folder: Path) -> None:
    """Create a folder and its ancestors, durably."""
    if not folder.exists():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def _replace(temporary: Path, final: Path) -> None:
    replaced = final.with_name(final.name + REPLACED)
    if final.exists():
        discard(replaced)
        rename(final, replaced)
    try:
        rename(temporary, final)
    except OSError:
        if replaced.exists() and not final.exists():
            rename(replaced, final)
        raise
    sync(final.parent)


def existing(final: Path) -> Path:
    """Returns `final`, or where its old content is if a replacement was cut short."""
    replaced = final.with_name(final.name + REPLACED)
    return replaced if not final.exists() and replaced.exists() else final


def write_file(path: Path, data: bytes) -> None:
    """Write and fsync a file."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all; what was there stays until then."""
    with filling(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def filling(path: Path) -> Iterator[Path]:
    """Give the path of a file to write; on leaving it becomes `path`, whole, or nothing changes."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file or directory to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handle on a directory that could be flushed
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Rename: the one step in which a directory appears."""
    os.rename(source, target)


def discard(directory: Path) -> None:
    """Delete a directory; its name is given up first, so that it is never seen half deleted."""
    if not directory.exists():
        return
    condemned = directory.with_name(f"{TEMPORARY}{directory.name}")
    shutil.rmtree(condemned, ignore_errors=True)
    rename(directory, condemned)
    shutil.rmtree(condemned)


def sweep(folder: Path) -> None:
    """Delete what interrupted writers left in `folder` under temporary names."""
    for left in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(left)
