"""The shuffling buffer: batches in an order that is a function of the seed and a cursor.

Blocks are taken in a new random order every epoch; as many as fill the buffer are put together,
their rows shuffled, and cut into batches. A source that never ends is read in order: its blocks
are independent already. The position is three numbers, so a checkpoint holds it and resuming is
exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from topk_ortho.activations.hierarchy import stream_seed
from topk_ortho.activations.source import Source, innermost
from topk_ortho.config import ConfigError
from topk_ortho.machine.phases import phase


@dataclass(frozen=True)
class Cursor:
    """Position in the data: epoch, first block of the buffer's filling, next row in it."""

    epoch: int = 0
    block: int = 0
    row: int = 0


def stream_of(source: Source) -> Any:
    """Returns the streamed text behind a source, which has a `state` and `load_state`; or None."""
    blocks = getattr(innermost(source), "contexts_by_block", None)
    return blocks if hasattr(blocks, "load_state") else None


class ShuffleBuffer:
    """Batches of shuffled training activations.

    Args:
        source: where blocks come from.
        batch_size: rows per batch.
        rows: rows that are shuffled together.
        seed: of both orders.
    """

    def __init__(self, source: Source, *, batch_size: int, rows: int, seed: int):
        self.source = source
        self.batch_size = batch_size
        self.rows = max(rows, batch_size)
        self.seed = seed
        self.cursor = Cursor()
        self._filling: tuple[Tensor, int] | None = None
        self._order: tuple[int, list[int]] | None = None

    def next(self) -> Tensor:
        """Returns the next batch `[batch_size, d_in]`; the short rest of a filling is dropped."""
        for _ in range(3):
            x, next_block = self._filled()
            start = self.cursor.row
            if start + self.batch_size <= len(x):
                self.cursor = Cursor(self.cursor.epoch, self.cursor.block, start + self.batch_size)
                return x[start : start + self.batch_size]
            self._advance(next_block)
        raise ConfigError(
            f"--batch-size {self.batch_size} was given, but the data has only {len(x)} training "
            "activations; lower --batch-size or give more data."
        )

    def upcoming(self, rows: int) -> Tensor:
        """Returns the next `rows` rows of the present filling, `[rows, d_in]`, and stays where it
        is; its last ones where fewer are left, all where it has fewer."""
        x, _ = self._filled()
        start = max(0, min(self.cursor.row, len(x) - rows))
        return x[start : start + rows]

    def fork(self) -> ShuffleBuffer:
        """Returns a separate buffer that continues from the same position."""
        other = ShuffleBuffer(
            self.source, batch_size=self.batch_size, rows=self.rows, seed=self.seed
        )
        other.cursor, other._filling, other._order = self.cursor, self._filling, self._order
        return other

    def state_dict(self) -> dict[str, Any]:
        """Returns the cursor as plain numbers, and where a text that is streamed has its place."""
        state = {"epoch": self.cursor.epoch, "block": self.cursor.block, "row": self.cursor.row}
        stream = stream_of(self.source)
        return state if stream is None else state | {"stream": stream.state(self.cursor.block)}

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
        stream = stream_of(self.source)
        if stream is not None and "stream" in state:
            stream.load_state(state["stream"])
        self.cursor = cursor
        self._filling = None

    def origin(self, row: int) -> str:
        """Returns where row `row` of the latest batch comes from, in words for the user."""
        index, limit = self.cursor.block, self.source.n_blocks("train")
        rows, parts = 0, []  # of the filling; where each of its blocks begins
        while rows < self.rows and (limit is None or index < limit):
            block = self._block_at(index, limit)
            parts.append((rows, block))
            rows += len(self.source.block(block, "train").x)
            index += 1
        found = int(self._shuffled(rows)[self.cursor.row - self.batch_size + row])
        start, block = max(part for part in parts if part[0] <= found)
        return self.source.where(block, "train", found - start)

    def _filled(self) -> tuple[Tensor, int]:
        if self._filling is None:
            parts: list[Tensor] = []
            index, limit = self.cursor.block, self.source.n_blocks("train")
            with phase("filling the buffer", total=self.rows) as work:
                while work.done < self.rows and (limit is None or index < limit):
                    parts.append(self.source.block(self._block_at(index, limit), "train").x)
                    work.advance(len(parts[-1]))
                    index += 1
            x = torch.cat(parts)
            self._filling = x[self._shuffled(len(x))], index
        return self._filling

    def _shuffled(self, rows: int) -> Tensor:
        """`[rows]` the order of the present filling."""
        generator = torch.Generator().manual_seed(
            stream_seed(self.seed, 21, self.cursor.epoch, self.cursor.block)
        )
        return torch.randperm(rows, generator=generator)

    def _advance(self, next_block: int) -> None:
        limit = self.source.n_blocks("train")
        at_end = limit is not None and next_block >= limit
        self._filling = None
        self.cursor = (
            Cursor(self.cursor.epoch + 1, 0, 0)
            if at_end
            else Cursor(self.cursor.epoch, next_block, 0)
        )

    def _block_at(self, index: int, limit: int | None) -> int:
        if limit is None:
            return index
        if self._order is None or self._order[0] != self.cursor.epoch:
            generator = torch.Generator().manual_seed(stream_seed(self.seed, 20, self.cursor.epoch))
            order = torch.randperm(limit, generator=generator).tolist()
            self._order = (self.cursor.epoch, order)
        return self._order[1][index]
