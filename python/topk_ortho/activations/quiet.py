"""A source without its loudest rows: attention sinks and other massive activations."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.activations.source import Block, Source, Split
from topk_ortho.metrics.loud_rows import norms


class QuietSource:
    """A source without the rows whose norm is above a limit.

    Args:
        source: where rows come from.
        limit: the largest norm that is kept, in the source's units.
    """

    def __init__(self, source: Source, *, limit: float):
        self.source = source
        self.limit = limit
        self.d_in = source.d_in
        self.truth = source.truth

    def n_blocks(self, split: Split) -> int | None:
        return self.source.n_blocks(split)

    def block(self, index: int, split: Split) -> Block:
        block = self.source.block(index, split)
        return block.take(self._kept(block.x))

    def where(self, index: int, split: Split, row: int) -> str:
        kept = self._kept(self.source.block(index, split).x)
        return self.source.where(index, split, int(kept.nonzero()[row]))

    def kept(self, split: Split) -> Tensor:
        """Returns `[rows]` bool, which rows of all blocks of a split are kept."""
        blocks = range(self.source.n_blocks(split) or 0)
        return torch.cat([self._kept(self.source.block(index, split).x) for index in blocks])

    def _kept(self, x: Tensor) -> Tensor:
        return norms(x) <= self.limit


def quiet_source(source: object) -> QuietSource | None:
    """Returns the `QuietSource` among a source and those that it is wrapped around, if any."""
    while source is not None and not isinstance(source, QuietSource):
        source = getattr(source, "source", None)
    return source
