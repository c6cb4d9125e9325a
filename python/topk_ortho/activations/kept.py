"""A source whose blocks are kept as they are first asked for: arms of one seed share them."""

from __future__ import annotations

from topk_ortho.activations.source import Block, Source, Split

KEPT_BYTES = 1 << 30


class KeptSource:
    """A source that caches the blocks of another one.

    Args:
        source: where blocks come from.
        limit: bytes that are kept; blocks beyond them are made at every call.
    """

    def __init__(self, source: Source, *, limit: int = KEPT_BYTES):
        self.source = source
        self.d_in = source.d_in
        self.truth = source.truth
        self._left = limit
        self._blocks: dict[tuple[int, Split], Block] = {}

    def n_blocks(self, split: Split) -> int | None:
        return self.source.n_blocks(split)

    def where(self, index: int, split: Split, row: int) -> str:
        return self.source.where(index, split, row)

    def block(self, index: int, split: Split) -> Block:
        """Returns the rows of one block, which must not be written to."""
        key = index, split
        if key in self._blocks:
            return self._blocks[key]
        block = self.source.block(index, split)
        size = sum(t.nbytes for t in block if t is not None)
        if size <= self._left:
            self._left -= size
            self._blocks[key] = block
        return block
