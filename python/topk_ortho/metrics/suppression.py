"""Suppressed pairs: one feature fires, and an overlapping one, though present, stays silent.

It counts how much overlapping features keep each other silent, and is no sign of absorption: on
data with known features few of the pairs that it lists are absorbed (docs/atlas.md). A pair (i, j)
is suppressed where

- the cosine of decoder rows i and j is above `LEAST_COSINE`, and j is one of the `NEIGHBOURS`
  nearest to i;
- j fired on at least `LEAST_TOKENS` tokens;
- on at least `LEAST_SHARE` of them i is silent, while `x - b_dec` reaches along row i at least
  `LEAST_STRENGTH` of the mean activation that i has where it fires.

Pairs are ordered: i is the one that stays silent (the parent), j the one that fires. It costs a
product of the decoder with itself, in tiles, and `NEIGHBOURS` passes over `[rows, d_sae]` booleans.
"""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.sparse.scale import at_safe_scale, row_norms

LEAST_COSINE = 0.1  # below it two rows hardly overlap
NEIGHBOURS = 16
LEAST_TOKENS = 20  # as many as an edge of the ground truth needs
LEAST_SHARE = 0.5
LEAST_STRENGTH = 0.75  # at 0.5 a child whose row took on half its parent would count as well
_TILE = 1024  # decoder rows at once


class Suppression:
    """Counts over batches; `update` sees each batch twice, first for the mean activations.

    Attributes:
        neighbours: `[d_sae, n]` int64, the features nearest to each, the nearest first.
        close: `[d_sae, n]` bool, whether their cosine is above `LEAST_COSINE`.
        fired: `[d_sae]` int64, tokens on which each fired, in the second pass.
        suppressed: `[d_sae, n]` int64, tokens on which the neighbour fired and the feature, though
            there, did not.
    """

    def __init__(self, W_dec: Tensor, b_dec: Tensor, mean_activation: Tensor):
        """Args:
        W_dec: `[d_sae, d_in]`, rows of any norm.
        b_dec: `[d_in]`.
        mean_activation: `[d_sae]`, of each feature over the tokens on which it fires.
        """
        rows, norm, _ = at_safe_scale(W_dec)
        self._rows, self._b_dec = rows / norm.clamp(min=1e-12)[:, None], b_dec
        # a code times its row's norm is how far it reaches along the row
        self._least = LEAST_STRENGTH * mean_activation * row_norms(W_dec)
        cosine, self.neighbours = _nearest(self._rows)
        self.close = cosine > LEAST_COSINE
        self.fired = torch.zeros(len(W_dec), dtype=torch.int64, device=W_dec.device)
        self.suppressed = torch.zeros_like(self.neighbours)

    @torch.no_grad()
    def update(self, x: Tensor, acts: Tensor) -> None:
        """Take in one batch.

        Args:
            x: `[rows, d_in]`.
            acts: `[rows, d_sae]`, its codes.
        """
        on = acts > 0
        there = (x - self._b_dec) @ self._rows.T >= self._least
        silent = there & ~on & (self._least > 0)
        self.fired += on.sum(0)
        for n in range(self.neighbours.shape[1]):
            self.suppressed[:, n] += (silent & on[:, self.neighbours[:, n]]).sum(0)

    def pairs(self) -> Tensor:
        """Returns `[n, 2]` int64: the suppressed pairs, the silent feature first."""
        of = self.fired[self.neighbours]
        held = self.close & (of >= LEAST_TOKENS) & (self.suppressed >= LEAST_SHARE * of)
        i, n = held.nonzero(as_tuple=True)
        return torch.stack([i, self.neighbours[i, n]], dim=1)


class MeanActivation:
    """Of every feature, over the tokens on which it fires."""

    def __init__(self, d_sae: int, device: torch.device):
        self._sum = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self._count = torch.zeros_like(self._sum)

    def update(self, acts: Tensor) -> None:
        """Take in codes `[rows, d_sae]`."""
        self._sum += acts.sum(0, dtype=torch.float64)
        self._count += (acts > 0).sum(0)

    def result(self) -> Tensor:
        """Returns `[d_sae]` float32, 0 for a feature that never fired."""
        return (self._sum / self._count.clamp(min=1)).float()


def _nearest(unit: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and index, `[d_sae, n]`, of the other rows nearest to each unit row."""
    count = min(NEIGHBOURS, len(unit) - 1)
    cosines, indices = [], []
    for start in range(0, len(unit), _TILE):
        cosine = unit[start : start + _TILE] @ unit.T
        own = torch.arange(start, start + len(cosine), device=unit.device)
        cosine[own - start, own] = -torch.inf
        value, index = cosine.topk(count, dim=1)
        cosines.append(value)
        indices.append(index)
    return torch.cat(cosines), torch.cat(indices)
