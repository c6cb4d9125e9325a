"""One forward pass of a language model for several hook points: who asks first has it run.

Sources of several hook points that read the same blocks share an object of this class. The blocks
of the other hook points wait for their sources; beyond a number of rows the oldest are dropped, and
computed again if they are asked for after all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor

from topk_ortho.activations.source import Block, Split

Compute = Callable[[int, Split, Sequence[str]], dict[str, Tensor]]
"""Block, split and hook points to the rows of each, `[rows, d_in]`."""
MOST_ROWS = 1 << 18


class Passes:
    """The blocks of one or several hook points, from one pass of the model for all.

    Args:
        hooks: hook points that will be read.
        target: hook point whose rows a transcoder reconstructs, the same for all; none if empty.
        most_rows: that wait.

    Attributes:
        count: passes over a block so far.
    """

    def __init__(
        self, hooks: Sequence[str], *, target: str = "", most_rows: int = MOST_ROWS
    ) -> None:
        self.hooks, self.target = tuple(dict.fromkeys(hooks)), target
        self.count = 0
        self._most, self._held = most_rows, 0
        self._waiting: OrderedDict[tuple[Split, int, str], Block] = OrderedDict()

    def block(self, compute: Compute, index: int, split: Split, hook: str) -> Block:
        """Returns a block at a hook point; those of the others wait."""
        found = self._take(split, index, hook)
        if found is not None:
            return found
        rows = compute(index, split, [*self.hooks, *([self.target] if self.target else [])])
        self.count += 1
        blocks = {each: Block(rows[each], None, rows.get(self.target)) for each in self.hooks}
        for other, block in blocks.items():
            if other != hook:
                self._take(split, index, other)
                self._waiting[split, index, other] = block
                self._held += len(block.x)
        while self._held > self._most:
            self._take(*next(iter(self._waiting)))
        return blocks[hook]

    def _take(self, split: Split, index: int, hook: str) -> Block | None:
        """Returns a block that waits, which it then no longer does; None where there is none."""
        found = self._waiting.pop((split, index, hook), None)
        self._held -= 0 if found is None else len(found.x)
        return found
