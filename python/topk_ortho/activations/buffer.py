"""The shuffling buffer: batches in an order that is a function of the seed and a cursor.

Blocks are taken in a new random order every epoch; as many as fill the buffer are put together,
their rows shuffled, and cut into batches. A source that never ends is read in order: its blocks
are independent already. The position is three numbers, so a checkpoint holds it and resuming is
exact. The next filling may be made in a thread while the present one is trained on, which changes
nothing in any batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from topk_ortho.activations.ahead import Ahead, Cursor, Filling, Reading, block_order, row_order
from topk_ortho.activations.source import Source, innermost
from topk_ortho.config import ConfigError
from topk_ortho.machine.phases import phase


def stream_of(source: Source) -> Any:
    """Returns the streamed text behind a source, which has a `state` and `load_state`; or None."""
    blocks = getattr(innermost(source), "contexts_by_block", None)
    return blocks if hasattr(blocks, "load_state") else None


class Batch(NamedTuple):
    """Rows to train on.

    Attributes:
        x: `[batch_size, d_in]`.
        target: `[batch_size, d_out]`, what is reconstructed from them; None where that is `x`.
    """

    x: Tensor
    target: Tensor | None = None


class ShuffleBuffer:
    """Batches of shuffled training activations.

    Args:
        source: where blocks come from.
        batch_size: rows per batch.
        rows: rows that are shuffled together.
        seed: of both orders.
        prefetch: make the next filling in a thread; nothing else may then ask the source for
            blocks, but inside `alone`, until `close`.
    """

    def __init__(
        self, source: Source, *, batch_size: int, rows: int, seed: int, prefetch: bool = False
    ):
        self.source = source
        self.batch_size = batch_size
        self.rows = max(rows, batch_size)
        self.seed = seed
        self.prefetch = prefetch
        self.cursor = Cursor()
        self._filling: Filling | None = None
        self._ahead: Ahead | None = None

    def next(self, *, more: int | None = None) -> Tensor:
        """Returns the next batch `[batch_size, d_in]`, as `next_batch` does, without its target."""
        return self.next_batch(more=more).x

    def next_batch(self, *, more: int | None = None) -> Batch:
        """Returns the next batch; the short rest of a filling is dropped.

        Args:
            more: batches that will be asked for after this one, where that is known: with
                `prefetch`, no filling is made that none of them needs.

        Raises:
            ConfigError: the data has fewer rows than a batch. Whatever goes wrong in the thread
                that makes the next filling is raised at the next call.
        """
        if self._ahead is not None:
            self._ahead.check()
        for _ in range(3):
            filling = self._filled()
            start, rows = self.cursor.row, filling.rows
            if start + self.batch_size <= rows:
                stop = start + self.batch_size
                if more is None or more > (rows - stop) // self.batch_size:
                    self._prepare(filling.next)
                self.cursor = replace(self.cursor, row=stop)
                return Batch(*filling.between(start, stop))
            self._filling, self.cursor = None, filling.next
        raise ConfigError(
            f"--batch-size {self.batch_size} was given, but the data has only {rows} training "
            "activations; lower --batch-size or give more data."
        )

    def go_back(self, cursor: Cursor) -> None:
        """Return to an earlier position, whose batch was not trained on."""
        if (cursor.epoch, cursor.block) != (self.cursor.epoch, self.cursor.block):
            self._filling = None
        self.cursor = cursor

    def upcoming(self, rows: int) -> Tensor:
        """Returns the next `rows` rows of the present filling, `[rows, d_in]`, and stays where it
        is; its last ones where fewer are left, all where it has fewer."""
        x = self._filled().x
        start = max(0, min(self.cursor.row, len(x) - rows))
        return x[start : start + rows]

    def fork(self, *, rows: int | None = None) -> ShuffleBuffer:
        """Returns a separate buffer that continues from the same position, without a thread.

        Args:
            rows: that it shuffles together from its next filling on; as many as here unless given.
        """
        rows = self.rows if rows is None else min(rows, self.rows)
        other = ShuffleBuffer(self.source, batch_size=self.batch_size, rows=rows, seed=self.seed)
        other.cursor, other._filling = self.cursor, self._filling
        return other

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A context in which no thread reads the source or runs its model."""
        ahead = self._ahead
        if ahead is not None:
            ahead.pause()
        yield
        if ahead is not None:
            ahead.go_on()

    def close(self) -> None:
        """Stop making the next filling; waits for the block that is being read."""
        if self._ahead is not None:
            self._ahead.pause()
            self._ahead = None

    def state_dict(self, *, at: Cursor | None = None) -> dict[str, Any]:
        """Returns the cursor as plain numbers, and where a text that is streamed has its place.

        Args:
            at: another position than the present one.
        """
        cursor = self.cursor if at is None else at
        state = {"epoch": cursor.epoch, "block": cursor.block, "row": cursor.row}
        stream = stream_of(self.source)
        if stream is None:
            return state
        with self.alone():
            return state | {"stream": stream.state(cursor.block)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a stored position.

        Raises:
            ValueError: there is no such position in the data.
        """
        cursor = Cursor(state["epoch"], state["block"], state["row"])
        limit = self.source.n_blocks("train")
        numbers = (cursor.epoch, cursor.block, cursor.row)
        whole = all(type(n) is int and n >= 0 for n in numbers)
        if not whole or (limit is not None and cursor.block >= limit):
            raise ValueError(f"{cursor} is not a position in {limit or 'endless'} blocks")
        self.close()
        stream = stream_of(self.source)
        if stream is not None and "stream" in state:
            stream.load_state(state["stream"])
        self.cursor = cursor
        self._filling = None

    def origin(self, row: int) -> str:
        """Returns where row `row` of the latest batch comes from, in words for the user."""
        index, limit = self.cursor.block, self.source.n_blocks("train")
        order = block_order(limit, seed=self.seed, epoch=self.cursor.epoch)
        rows, parts = 0, []  # of the filling; where each of its blocks begins
        with self.alone():
            while rows < self.rows and (limit is None or index < limit):
                block = order[index] if order else index
                parts.append((rows, block))
                rows += len(self.source.block(block, "train").x)
                index += 1
        shuffled = row_order(rows, seed=self.seed, cursor=self.cursor)
        found = int(shuffled[self.cursor.row - self.batch_size + row])
        start, block = max(part for part in parts if part[0] <= found)
        return self.source.where(block, "train", found - start)

    def _filled(self) -> Filling:
        """The present filling."""
        if self._filling is None:
            start = replace(self.cursor, row=0)
            if self._ahead is not None and self._ahead.cursor == start:
                self._filling, self._ahead = self._ahead.take(), None
            else:
                self.close()
                self._filling = self._read(start)
        return self._filling

    def _read(self, start: Cursor) -> Filling:
        reading = self._reading(start)
        with phase("filling the buffer", total=self.rows) as shown:
            while not reading.whole:
                shown.advance(reading.read())
            return reading.shuffled()

    def _prepare(self, start: Cursor) -> None:
        """Make the filling that begins at `start` in a thread, unless one does."""
        if self.prefetch and self._ahead is None:
            self._ahead = Ahead(self._reading(start))
            self._ahead.go_on()

    def _reading(self, start: Cursor) -> Reading:
        return Reading(self.source, start, rows=self.rows, seed=self.seed)
