"""Batches that are in memory already, as the trainer takes its data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from topk_ortho.activations import Activations
from topk_ortho.activations.source import Block, GroundTruth, Split


@dataclass
class Batches:
    """Attributes:
    x: `[batch, d_in]` each.
    """

    x: list[Tensor]
    truth: GroundTruth | None = None

    @property
    def d_in(self) -> int:
        return self.x[0].shape[1]

    def n_blocks(self, split: Split) -> int:
        return len(self.x)

    def block(self, index: int, split: Split) -> Block:
        return Block(self.x[index], None)


def in_memory(batches: list[Tensor]) -> Activations:
    """The batches as they are, with their own mean and variance."""
    x = torch.cat(batches)
    return Activations(Batches(batches), scale=1.0, variance=float(x.var(0).sum()), mean=x.mean(0))
