"""A filling of the shuffling buffer: read block by block, here or in a thread ahead of training."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from topk_ortho.activations.hierarchy import stream_seed
from topk_ortho.activations.source import Source


@dataclass(frozen=True)
class Cursor:
    """Position in the data: epoch, first block of the buffer's filling, next row in it."""

    epoch: int = 0
    block: int = 0
    row: int = 0


@dataclass(frozen=True)
class Filling:
    """Shuffled rows, and the position of the filling after them.

    Attributes:
        x: `[rows, d_in]`.
        next: that position.
        target: `[rows, d_out]`, what is reconstructed from them; None where that is `x`.
    """

    x: Tensor
    next: Cursor
    target: Tensor | None = None

    @property
    def rows(self) -> int:
        """Returns how many rows were shuffled together."""
        return len(self.x)

    def between(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """Returns rows `start` to `stop`, and their targets."""
        return self.x[start:stop], None if self.target is None else self.target[start:stop]


class Reading:
    """A filling in the making.

    Args:
        source: where blocks come from.
        cursor: position of the filling.
        rows: rows that make it full.
        seed: of the order of blocks, and of that of rows.
    """

    def __init__(self, source: Source, cursor: Cursor, *, rows: int, seed: int) -> None:
        self.source, self.cursor, self.rows, self.seed = source, cursor, rows, seed
        self._limit = source.n_blocks("train")
        self._order = block_order(self._limit, seed=seed, epoch=cursor.epoch)
        self._index = cursor.block
        self._parts: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._held = 0

    @property
    def whole(self) -> bool:
        """Returns whether all blocks have been read."""
        return self._held >= self.rows or self._index == self._limit

    def read(self) -> int:
        """Read one more block; returns its rows."""
        block = self._order[self._index] if self._order else self._index
        x, _, target = self.source.block(block, "train")
        self._parts.append(x)
        if target is not None:
            self._targets.append(target)
        self._held += len(x)
        self._index += 1
        return len(x)

    def shuffled(self) -> Filling:
        """Returns the filling; the blocks are given up one by one, so that they and the shuffled
        rows are all that is held."""
        order = row_order(self._held, seed=self.seed, cursor=self.cursor)
        place = torch.empty_like(order)
        place[order] = torch.arange(self._held)
        x = _placed(self._parts, place)
        target = _placed(self._targets, place) if self._targets else None
        at_end = self._limit is not None and self._index >= self._limit
        epoch = self.cursor.epoch
        return Filling(x, Cursor(epoch + 1) if at_end else Cursor(epoch, self._index), target)


def _placed(parts: list[Tensor], place: Tensor) -> Tensor:
    """Returns the rows of all parts, each at its place; the list is emptied on the way."""
    out, start = parts[0].new_empty(len(place), parts[0].shape[1]), 0
    for _ in range(len(parts)):
        part = parts.pop(0)
        out[place[start : start + len(part)]] = part
        start += len(part)
    return out


def block_order(limit: int | None, *, seed: int, epoch: int) -> list[int] | None:
    """Returns the blocks of an epoch in their order, None for data that never ends."""
    if limit is None:
        return None
    generator = torch.Generator().manual_seed(stream_seed(seed, 20, epoch))
    return torch.randperm(limit, generator=generator).tolist()


def row_order(rows: int, *, seed: int, cursor: Cursor) -> Tensor:
    """Returns the order of the rows of a filling, `[rows]` int64."""
    generator = torch.Generator().manual_seed(stream_seed(seed, 21, cursor.epoch, cursor.block))
    return torch.randperm(rows, generator=generator)


class Ahead:
    """A filling that a thread makes; the source is the thread's own until `pause` or `take`.

    Args:
        reading: the filling in the making.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._filling: Filling | None = None
        self._error: BaseException | None = None
        self._stopped, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def cursor(self) -> Cursor:
        """Returns the position of the filling."""
        return self._reading.cursor

    def go_on(self) -> None:
        """Read in a thread, from where it was paused."""
        if self._thread is None and self._filling is None and self._error is None:
            self._stopped.clear()
            self._over.clear()
            self._thread = threading.Thread(target=self._read, name="harvest", daemon=True)
            self._thread.start()

    def pause(self) -> None:
        """Wait until the block that is being read has been read, and read no other."""
        self._stopped.set()
        self._wait()

    def check(self) -> None:
        """Raise what went wrong in the thread, if anything did."""
        if self._error is not None:
            raise self._error

    def take(self) -> Filling:
        """Returns the filling, as soon as there is one."""
        self.go_on()
        self._wait()
        self.check()
        assert self._filling is not None
        return self._filling

    def _wait(self) -> None:
        if self._thread is not None:
            self._over.wait()  # a signal that cuts `join` short lets later ones return at once
            self._thread.join()
            self._thread = None

    def _read(self) -> None:
        try:
            with torch.no_grad():
                while not self._reading.whole:
                    if self._stopped.is_set():
                        return
                    self._reading.read()
                self._filling = self._reading.shuffled()
        except BaseException as error:  # all that ends a thread concerns the one that waits for it
            self._error = error
        finally:
            self._over.set()
