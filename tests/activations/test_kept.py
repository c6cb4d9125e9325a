"""Blocks that are kept are made once, are the same, and take no more than they may."""

from __future__ import annotations

import torch

from topk_ortho.activations.kept import KeptSource
from topk_ortho.activations.source import Block
from topk_ortho.activations.synthetic import SyntheticSource
from topk_ortho.config import SyntheticConfig


class Counted(SyntheticSource):
    """Notes every block that is made."""

    def __init__(self) -> None:
        super().__init__(SyntheticConfig(), seed=3)
        self.made: list[tuple[int, str]] = []

    def block(self, index, split) -> Block:
        self.made.append((index, split))
        return super().block(index, split)


def size(block: Block) -> int:
    assert block.fired is not None
    return block.x.nbytes + block.fired.nbytes


def test_a_block_is_made_once_and_stays_what_it_was() -> None:
    source, plain = Counted(), SyntheticSource(SyntheticConfig(), seed=3)
    kept = KeptSource(source)
    for _ in range(2):
        for index, split in ((0, "train"), (1, "train"), (0, "eval")):
            ours, theirs = kept.block(index, split), plain.block(index, split)
            assert torch.equal(ours.x, theirs.x)
            assert torch.equal(ours.fired, theirs.fired)
    assert source.made == [(0, "train"), (1, "train"), (0, "eval")]
    assert (kept.d_in, kept.truth) == (source.d_in, source.truth)
    assert kept.n_blocks("train") == source.n_blocks("train")


def test_what_is_beyond_the_limit_is_made_again() -> None:
    source = Counted()
    kept = KeptSource(source, limit=2 * size(source.block(0, "train")))
    source.made.clear()
    for _ in range(2):
        for index in range(3):
            kept.block(index, "train")
    assert source.made == [(n, "train") for n in (0, 1, 2, 2)]
