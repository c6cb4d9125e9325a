"""Locks between processes that are released when their holder ends, in whatever way."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""What flock says on a file system without locks, such as some network ones."""


class Held(Exception):
    """Another holder has the lock."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, waiting for whoever holds it; nothing where there is no flock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        _flock(file, wait=True)
        yield


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold the existing file `path` as a lock; it is neither read nor written.

    Raises:
        Held: another process, or another part of this one, holds it.
    """
    with path.open("r+b") as file:
        _flock(file, wait=False)
        yield


def _flock(file: IO[Any], *, wait: bool) -> None:
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Held from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
