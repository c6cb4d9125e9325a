"""The shuffling buffer of several processes: batches of one, each process with its rows of them.

Blocks are read in rounds, one block a process, so that a language model's passes, files and
synthetic data are divided; then every row travels to the process that trains on it, in one
exchange. The order of blocks and rows, and so every batch, is that of one process; the position is
counted in rows of all. Costs `4 * d_in + 8` bytes a row once, and a process
holds its share of a filling.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch import distributed as dist

from topk_ortho.activations.ahead import Cursor, Filling, Reading, row_order
from topk_ortho.activations.buffer import ShuffleBuffer
from topk_ortho.activations.source import Block, Source
from topk_ortho.distributed.codes import gather_rows
from topk_ortho.distributed.world import World
from topk_ortho.machine.interrupt import Interrupted

ROUND = "the blocks that the other processes read"
ROWS = "the rows that the other processes read"


@dataclass(frozen=True)
class DividedFilling(Filling):
    """This process's rows of a filling.

    Attributes:
        x: `[own rows, d_in]`.
        target: `[own rows, d_out]`, or None.
        place: `[own rows]` int64, rising: where each stands among all shuffled rows.
        total: rows of all processes.
    """

    place: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    total: int = 0

    @property
    def rows(self) -> int:
        return self.total

    def between(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        low, high = torch.searchsorted(self.place, torch.tensor([start, stop])).tolist()
        return self.x[low:high], None if self.target is None else self.target[low:high]


class DividedReading(Reading):
    """A filling in the making, of which every process reads its blocks.

    Args:
        source: where blocks come from.
        cursor: position of the filling.
        rows: rows that make it full.
        seed: of both orders.
        batch: rows of a batch, of which each process gets a range.
        world: the processes.
        spare: blocks that were read beyond the end of the filling before, by number; those of this
            one are left there.
    """

    def __init__(
        self,
        source: Source,
        cursor: Cursor,
        *,
        rows: int,
        seed: int,
        batch: int,
        world: World,
        spare: dict[int, Block],
    ) -> None:
        super().__init__(source, cursor, rows=rows, seed=seed)
        self._batch, self._world, self._spare = batch, world, spare
        self._own: list[tuple[int, Block]] = []  # and where each begins among all rows
        self._d_out = 0

    def read(self) -> int:
        """Read one more block in every process; returns the rows of all.

        Raises:
            Interrupted: a process was asked to end; all raise it in the same round.
        """
        world, block = self._world, self._next_block()
        rows = -1 if block is None else len(block.x)
        d_out = 0 if block is None or block.target is None else block.target.shape[1]
        found = world.numbers([rows, d_out, world.asked()], ROUND)
        if asked := max(number for _, _, number in found):
            world.agreed = asked
            raise Interrupted(number=asked)
        self._d_out = max(self._d_out, *(width for _, width, _ in found))
        before, first = self._held, self._index
        for index in range(first, first + world.size):
            rank = index % world.size
            n = found[rank][0]
            if self.whole or n < 0:
                break
            if rank == world.rank:
                assert block is not None
                self._own.append((self._held, block))
                self._spare.pop(self._number(index), None)
            self._held += n
            self._index += 1
        return self._held - before

    def shuffled(self) -> Filling:
        place = torch.empty(self._held, dtype=torch.int64)
        order = row_order(self._held, seed=self.seed, cursor=self.cursor)
        place[order] = torch.arange(self._held)
        own = torch.cat([place[at : at + len(b.x)] for at, b in self._own] or [place[:0]])
        to = self._ranks(own)
        by_rank = to.argsort(stable=True)
        sent = torch.bincount(to, minlength=self._world.size).tolist()
        counts = self._world.numbers(sent, ROWS)
        got = [row[self._world.rank] for row in counts]
        places = self._exchange(own[by_rank, None], sent, got).squeeze(1)
        order = places.argsort()
        x = self._joined([b.x for _, b in self._own], self.source.d_in)
        x = self._exchange(x[by_rank], sent, got)[order]
        target = None
        if self._d_out:
            parts = [b.target for _, b in self._own if b.target is not None]
            target = self._exchange(self._joined(parts, self._d_out)[by_rank], sent, got)[order]
        self._own = []
        at_end = self._limit is not None and self._index >= self._limit
        epoch = self.cursor.epoch
        after = Cursor(epoch + 1) if at_end else Cursor(epoch, self._index)
        return DividedFilling(x, after, target, place=places[order], total=self._held)

    def _next_block(self) -> Block | None:
        """This process's block of the round, every `size`-th of all; None beyond the last."""
        index = self._index + (self._world.rank - self._index) % self._world.size
        if self._limit is not None and index >= self._limit:
            return None
        number = self._number(index)
        if number not in self._spare:
            self._spare[number] = self.source.block(number, "train")
        return self._spare[number]

    def _number(self, index: int) -> int:
        return self._order[index] if self._order else index

    def _ranks(self, place: Tensor) -> Tensor:
        """Returns which process each place among the shuffled rows belongs to."""
        within, whole = place % self._batch, self._held // self._batch * self._batch
        full = torch.bucketize(within, self._bounds(self._batch), right=True)
        rest = torch.bucketize(within, self._bounds(self._held - whole), right=True)
        return torch.where(place < whole, full, rest)

    def _bounds(self, batch: int) -> Tensor:
        size = self._world.size
        return torch.tensor([batch * rank // size for rank in range(1, size)])

    def _exchange(self, rows: Tensor, sent: list[int], got: list[int]) -> Tensor:
        out = rows.new_empty(sum(got), rows.shape[1])
        with self._world.waiting(ROWS):
            dist.all_to_all_single(out, rows.contiguous(), got, sent, group=self._world.group)
        return out

    @staticmethod
    def _joined(parts: list[Tensor], width: int) -> Tensor:
        return torch.cat(parts) if parts else torch.empty(0, width)


class DividedBuffer(ShuffleBuffer):
    """Batches of which this process gets its rows, `world.rows(batch_size)`.

    Every process asks for every batch, in the same order.

    Args:
        source: the whole source, of which this process reads some blocks.
        batch_size: rows of a batch of all processes.
        rows: rows that are shuffled together, of all processes.
        seed: of both orders.
        world: the processes.
    """

    def __init__(
        self, source: Source, *, batch_size: int, rows: int, seed: int, world: World
    ) -> None:
        super().__init__(source, batch_size=batch_size, rows=rows, seed=seed)
        self.world = world
        self._spare: dict[int, Block] = {}
        self._spare_of = -1  # the epoch that they are of

    def upcoming(self, rows: int) -> Tensor:
        """Returns the same rows as one process would, on every process."""
        filling = self._filled()
        assert isinstance(filling, DividedFilling)
        start = max(0, min(self.cursor.row, filling.rows - rows))
        stop = min(start + rows, filling.rows)
        x, _ = filling.between(start, stop)
        place = filling.place[(filling.place >= start) & (filling.place < stop)]
        counts = [n for (n,) in self.world.numbers([len(x)], ROWS)]
        x, place = (gather_rows(t, self.world, rows=counts, what=ROWS) for t in (x, place))
        return x[place.argsort()]

    def fork(self, *, rows: int | None = None) -> ShuffleBuffer:
        """Returns a buffer of this process alone, whole batches from the same position on."""
        rows = self.rows if rows is None else min(rows, self.rows)
        other = ShuffleBuffer(self.source, batch_size=self.batch_size, rows=rows, seed=self.seed)
        other.cursor = self.cursor
        return other

    def origin(self, row: int) -> str:
        return super().origin(self.world.rows(self.batch_size).start + row)

    def _reading(self, start: Cursor) -> Reading:
        if self._spare_of != start.epoch:
            self._spare.clear()
            self._spare_of = start.epoch
        return DividedReading(
            self.source,
            replace(start),
            rows=self.rows,
            seed=self.seed,
            batch=self.batch_size,
            world=self.world,
            spare=self._spare,
        )
