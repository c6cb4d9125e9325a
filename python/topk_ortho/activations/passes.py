"""One forward pass of a language model for several hook points: who asks first has it run.

Sources of several hook points that read the same blocks share an object of this class. The rows of
the other hook points wait for their sources; beyond a number of bytes the oldest are dropped, and
computed again if they are asked for after all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor

from topk_ortho.activations.source import Split

Compute = Callable[[int, Split, Sequence[str]], dict[str, Tensor]]
"""Block, split and hook points to the rows of each, `[rows, d_in]`."""
Key = tuple[Split, int, str]


class SharedPasses:
    """The rows of blocks at several hook points.

    Args:
        hooks: hook points that will be asked for.

    Attributes:
        most_bytes: of rows that wait.
        passes: blocks that were computed, for tests and the log.
    """

    def __init__(self, hooks: Sequence[str]) -> None:
        self.hooks = tuple(dict.fromkeys(hooks))
        self.passes = 0
        self.most_bytes, self._held = 1 << 30, 0
        self._waiting: OrderedDict[Key, Tensor] = OrderedDict()

    def rows(self, compute: Compute, index: int, split: Split, hook: str) -> Tensor:
        """Returns the rows of a block at a hook point; those of the others wait."""
        found = self._waiting.pop((split, index, hook), None)
        if found is not None:
            self._held -= found.nbytes
            return found
        computed = compute(index, split, self.hooks)
        self.passes += 1
        for other, rows in computed.items():
            if other != hook:
                self._keep((split, index, other), rows)
        return computed[hook]

    def _keep(self, key: Key, rows: Tensor) -> None:
        before = self._waiting.pop(key, None)
        if before is not None:
            self._held -= before.nbytes
        self._waiting[key] = rows
        self._held += rows.nbytes
        while self._held > self.most_bytes:
            _, dropped = self._waiting.popitem(last=False)
            self._held -= dropped.nbytes
