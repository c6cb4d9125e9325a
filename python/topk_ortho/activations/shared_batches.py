"""Batches that several runs take in turn, so that the data of a step is read once for all of them.

The run that is behind takes a batch first; no run takes its next one before all have had the
present one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from topk_ortho.activations.ahead import Cursor
from topk_ortho.activations.buffer import Batch, ShuffleBuffer


class SharedBatches(ShuffleBuffer):
    """The batches of one of several runs.

    Args:
        buffer: where the batches come from.
        beside: the batches of another of the runs; None for the first.
    """

    def __init__(self, buffer: ShuffleBuffer, beside: SharedBatches | None = None) -> None:
        super().__init__(
            buffer.source, batch_size=buffer.batch_size, rows=buffer.rows, seed=buffer.seed
        )
        self.taken = 0
        """Batches so far."""
        self._stored: dict[str, Any] | None = None
        self._common: _Common = _Common(buffer) if beside is None else beside._common

    def next_batch(self, *, more: int | None = None) -> Batch:
        """Returns the next batch, which must not be written to."""
        common = self._common
        if self.taken == common.taken:
            before = common.buffer.cursor
            common.latest = common.buffer.next_batch(more=more)
            common.before = before
            common.taken += 1
        if self.taken + 1 != common.taken or common.latest is None:
            raise RuntimeError(f"batch {self.taken} was asked for at batch {common.taken}")
        self.taken += 1
        return common.latest

    def begin(self, taken: int) -> None:
        """Begin after so many batches, at the stored position if there is one; the run with the
        fewest begins first."""
        self.taken = taken
        common = self._common
        if not common.begun:
            if self._stored is not None:
                common.buffer.load_state_dict(self._stored)
            common.begun, common.taken = True, taken

    def upcoming(self, rows: int) -> Tensor:
        return self._common.buffer.upcoming(rows)

    def fork(self, *, rows: int | None = None) -> ShuffleBuffer:
        return self._common.buffer.fork(rows=rows)

    def origin(self, row: int) -> str:
        return self._common.buffer.origin(row)

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._common.buffer.alone():
            yield

    def close(self) -> None:
        self._common.buffer.close()

    def state_dict(self, *, at: Cursor | None = None) -> dict[str, Any]:
        """Returns this run's position; where it has yet to take the latest batch, that before."""
        behind = self._common.taken - self.taken
        if behind not in (0, 1):
            raise RuntimeError(f"batch {self.taken} is not near the latest, {self._common.taken}")
        return self._common.buffer.state_dict(at=at or (self._common.before if behind else None))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a stored position, from which `begin` goes on."""
        self._stored = state


class _Common:
    """What the runs share: the buffer, its latest batch, the position before it, and the number."""

    def __init__(self, buffer: ShuffleBuffer) -> None:
        self.buffer = buffer
        self.taken = 0
        self.begun = False
        self.latest: Batch | None = None
        self.before: Cursor | None = None
