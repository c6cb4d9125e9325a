"""Features without a hierarchy that look like one, added on top of any activations.

Three kinds, all at a cosine of `COSINE` within a group: features of which one at a time fires,
pairs that fire independently of each other, and pairs of which one is rare and four times as
strong. None of them is the parent of another, so that an edge between two of them is wrong.
"""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.activations.hierarchy import stream_seed
from topk_ortho.activations.source import Block, GroundTruth, Source, Split

GROUPS, EXCLUSIVE = 4, 4
PAIRS, LOUD_PAIRS = 6, 6
COSINE = 0.4
GROUP_RATE, PAIR_RATE, COMMON_RATE, RARE_RATE = 0.15, 0.05, 0.08, 0.01
LOUDER = 4.0
STD = 0.25
"""Standard deviation of a magnitude, as a share of its mean."""


class ConfoundedSource:
    """A source with confounds added on top; what was known of it stays known.

    Args:
        source: activations, with or without ground truth.
        magnitude: mean of a feature's magnitude, in the units of the activations.
        seed: of directions and firing.
    """

    def __init__(self, source: Source, *, magnitude: float, seed: int):
        self.source, self.magnitude, self.seed = source, magnitude, seed
        self.d_in = source.d_in
        generator = torch.Generator().manual_seed(stream_seed(seed, 20))
        sizes = [EXCLUSIVE] * GROUPS + [2] * (PAIRS + LOUD_PAIRS)
        self.directions = torch.cat([_overlapping(n, source.d_in, generator) for n in sizes])
        parent = torch.full((len(self.directions),), -1)
        if source.truth is not None:
            self.truth: GroundTruth | None = GroundTruth(
                torch.cat([source.truth.directions, self.directions]),
                torch.cat([source.truth.parent, parent]),
            )
        else:
            self.truth = GroundTruth(self.directions, parent)

    def n_blocks(self, split: Split) -> int | None:
        return self.source.n_blocks(split)

    def where(self, index: int, split: Split, row: int) -> str:
        return self.source.where(index, split, row)

    def block(self, index: int, split: Split) -> Block:
        block = self.source.block(index, split)
        side = 21 if split == "train" else 22
        generator = torch.Generator().manual_seed(stream_seed(self.seed, side, index))
        fired = _fired(len(block.x), generator)
        strength = (1 + STD * torch.randn(fired.shape, generator=generator)).abs()
        strength[:, -2 * LOUD_PAIRS + 1 :: 2] *= LOUDER
        x = block.x + (fired * strength * self.magnitude) @ self.directions
        known = fired if block.fired is None else torch.cat([block.fired, fired], 1)
        return Block(x, known, block.target)


def _overlapping(n: int, d: int, generator: torch.Generator) -> Tensor:
    """`[n, d]` unit rows, each two with a cosine of about `COSINE`."""
    rows = torch.randn(n, d, generator=generator)
    shared = torch.randn(d, generator=generator)
    unit = torch.nn.functional.normalize
    mixed: Tensor = COSINE**0.5 * unit(shared, dim=0) + (1 - COSINE) ** 0.5 * unit(rows, dim=1)
    return unit(mixed, dim=1)


def _fired(rows: int, generator: torch.Generator) -> Tensor:
    """`[rows, n]` bool: exclusive groups, independent pairs, and pairs with a rare one."""
    group = torch.rand(rows, GROUPS, generator=generator) < GROUP_RATE
    pick = torch.randint(EXCLUSIVE, (rows, GROUPS), generator=generator)
    one = torch.nn.functional.one_hot(pick, EXCLUSIVE).bool() & group[..., None]
    pairs = torch.rand(rows, 2 * PAIRS, generator=generator) < PAIR_RATE
    rates = torch.tensor([COMMON_RATE, RARE_RATE]).repeat(LOUD_PAIRS)
    loud = torch.rand(rows, 2 * LOUD_PAIRS, generator=generator) < rates
    return torch.cat([one.flatten(1), pairs, loud], 1)
