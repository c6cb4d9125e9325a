"""One constant that brings real activations to total variance 5 (method 1)."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from topk_ortho.activations.source import Block, Source, Split, innermost
from topk_ortho.metrics.loud_rows import norms

TARGET_VARIANCE = 5.0
ESTIMATION_ROWS = 32_768
UNLIKE = 10
"""Ratio of the median norms of two parts of the data that calls for a warning."""


@dataclass(frozen=True)
class Sample:
    """Rows that scale, mean and variance are estimated on.

    Attributes:
        blocks: training blocks.
        lengths: rows taken from the beginning of each.
    """

    blocks: tuple[int, ...]
    lengths: tuple[int, ...]

    def rows(self, source: Source) -> Tensor:
        """Returns `[sum of lengths, d_in]`, of the source that was sampled or one around it."""
        taken = zip(self.blocks, self.lengths, strict=True)
        return torch.cat([source.block(index, "train").x[:rows] for index, rows in taken])

    def targets(self, source: Source) -> Tensor | None:
        """Returns `[sum of lengths, d_out]`, the targets of those rows; None without any."""
        taken = zip(self.blocks, self.lengths, strict=True)
        found = (source.block(index, "train").take(slice(rows)).target for index, rows in taken)
        parts = [part for part in found if part is not None]
        return torch.cat(parts) if parts else None

    def origin(self, source: Source, row: int) -> str:
        """Returns where row `row` of `rows` comes from."""
        at = 0
        while row >= self.lengths[at]:
            row, at = row - self.lengths[at], at + 1
        return source.where(self.blocks[at], "train", row)


def sampled(
    source: Source,
    rows: int = ESTIMATION_ROWS,
    *,
    progress: Callable[[int], object] = lambda rows: None,
) -> tuple[Sample, Tensor]:
    """Returns about `rows` rows and where they are from: the first training blocks, or, in a folder
    of several shards, the beginnings of blocks from all over it. `progress` is called with the
    rows of each block."""
    inner: Any = innermost(source)  # what is wrapped around it has the same blocks
    spread = inner.spread_blocks(rows) if hasattr(inner, "spread_blocks") else None
    limit = source.n_blocks("train")
    each = rows if spread is None else -(-rows // len(spread))
    blocks: list[int] = []
    parts: list[Tensor] = []
    for index in spread or itertools.count():
        if spread is None and (index == limit or sum(len(part) for part in parts) >= rows):
            break
        x = source.block(index, "train").x
        blocks.append(index)
        parts.append(x if spread is None else x[:each])
        progress(len(parts[-1]))
    return Sample(tuple(blocks), tuple(map(len, parts))), torch.cat(parts)


def first_rows(source: Source, rows: int = ESTIMATION_ROWS) -> Tensor:
    """Returns `[about rows, d_in]`, the rows of `sampled`."""
    return sampled(source, rows)[1]


def warn_of_parts(source: Source, sample: Sample, x: Tensor) -> None:
    """Warn of parts of the data that differ grossly in size: one scale does not fit them all.

    Args:
        sample: of `source`.
        x: its rows.
    """
    middle = [float(norms(part).median()) for part in x.split(list(sample.lengths))]
    least, most = min(middle), max(middle)
    if most > UNLIKE * least:
        small, large = (
            source.where(sample.blocks[middle.index(m)], "train", 0) for m in (least, most)
        )
        warnings.warn(
            f"the activations from {large} on have a norm of {most:.3g} in the median, those from "
            f"{small} on {least:.3g}; one scale does not fit both, so bring all shards to one "
            "unit, or train on those of one kind.",
            stacklevel=3,
        )


def total_variance(x: Tensor) -> float:
    """Returns the variance of `x` `[n, d_in]` summed over dimensions, in float64."""
    return float(x.double().var(0, correction=0).sum())


class ScaledSource:
    """A source times a constant, and its targets times their own.

    Args:
        source: where blocks come from.
        scale: of `x`.
        target: of targets, the same unless given.
    """

    def __init__(self, source: Source, scale: float, *, target: float | None = None):
        self.source = source
        self.scale = scale
        self._target = scale if target is None else target
        self.d_in = source.d_in
        self.truth = source.truth

    def n_blocks(self, split: Split) -> int | None:
        return self.source.n_blocks(split)

    def where(self, index: int, split: Split, row: int) -> str:
        return self.source.where(index, split, row)

    def block(self, index: int, split: Split) -> Block:
        block = self.source.block(index, split)
        target = None if block.target is None else block.target * self._target
        return Block(block.x * self.scale, block.fired, target)
