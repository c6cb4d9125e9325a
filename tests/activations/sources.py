"""Small sources for tests: rows that carry their own number."""

from __future__ import annotations

import torch

from topk_ortho.activations.source import Block, GroundTruth, Split


class Numbered:
    """Row n of the training split is `[n, block, 0]`, of the other one `[-1 - n, block, 0]`."""

    def __init__(self, *sizes: int):
        self.sizes = sizes
        self.d_in = 3
        self.truth: GroundTruth | None = None
        self.asked: list[int] = []

    def n_blocks(self, split: Split) -> int | None:
        return len(self.sizes)

    def where(self, index: int, split: Split, row: int) -> str:
        return f"row {row} of {split} block {index}"

    def block(self, index: int, split: Split) -> Block:
        self.asked.append(index)
        rows, start = self.size(index), self.start(index)
        number = torch.arange(start, start + rows).float()
        number = number if split == "train" else -1 - number
        return Block(torch.stack([number, torch.full_like(number, index), 0 * number], 1), None)

    def size(self, index: int) -> int:
        return self.sizes[index]

    def start(self, index: int) -> int:
        return sum(self.sizes[:index])


class Endless(Numbered):
    """Blocks of one size without an end."""

    def n_blocks(self, split: Split) -> int | None:
        return None

    def size(self, index: int) -> int:
        return self.sizes[0]

    def start(self, index: int) -> int:
        return index * self.sizes[0]


class Gaussian:
    """`blocks` of 1,000 rows with mean 3 and the given total variance over 4 dimensions."""

    def __init__(self, *, variance: float, blocks: int | None = 40):
        self.deviation = (variance / 4) ** 0.5
        self.blocks = blocks
        self.d_in = 4
        self.truth: GroundTruth | None = None

    def n_blocks(self, split: Split) -> int | None:
        return self.blocks

    def block(self, index: int, split: Split) -> Block:
        generator = torch.Generator().manual_seed(2 * index + (split == "eval"))
        x = torch.randn(1000, 4, generator=generator)
        return Block(3 + self.deviation * x, None)
