"""One constant that brings real activations to total variance 5 (method 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.activations.source import Block, Source, Split

TARGET_VARIANCE = 5.0
ESTIMATION_ROWS = 32_768


def first_rows(source: Source, rows: int = ESTIMATION_ROWS) -> Tensor:
    """`[at least rows, d_in]` from the first training blocks (fewer where there are fewer)."""
    parts: list[Tensor] = []
    index, limit = 0, source.n_blocks("train")
    while sum(len(p) for p in parts) < rows and (limit is None or index < limit):
        parts.append(source.block(index, "train").x)
        index += 1
    return torch.cat(parts)


def row_origin(source: Source, row: int) -> str:
    """Where row `row` of `first_rows` comes from."""
    index = 0
    while row >= (length := len(source.block(index, "train").x)):
        row, index = row - length, index + 1
    return source.where(index, "train", row)


def total_variance(x: Tensor) -> float:
    """Variance of `x` `[n, d_in]` summed over dimensions, in float64."""
    return float(x.double().var(0, correction=0).sum())


class ScaledSource:
    """A source times a constant."""

    def __init__(self, source: Source, scale: float):
        self.source = source
        self.scale = scale
        self.d_in = source.d_in
        self.truth = source.truth

    def n_blocks(self, split: Split) -> int | None:
        return self.source.n_blocks(split)

    def where(self, index: int, split: Split, row: int) -> str:
        return self.source.where(index, split, row)

    def block(self, index: int, split: Split) -> Block:
        block = self.source.block(index, split)
        return Block(block.x * self.scale, block.fired)
