"""The pairs of OrtSAE (2025): each feature with the one most similar to it in its random chunk.

A selection draws a random partition into `ceil(d_sae / CHUNK)` chunks and takes, for each feature,
the partner with the largest cosine in its chunk. The penalty is then a mean over features, so a
pair whose two features choose each other is listed twice. Costs `d_in * d_sae * CHUNK / 2`
multiply-adds, in tiles of the upper triangle of each chunk; only one tile is held. float32
products only discard: what could be the largest is scored again in float64.

A feature whose largest cosine is not above 0 overlaps with nothing and has no pair.
"""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.constraint.criteria.cosine import Cosine
from topk_ortho.constraint.criteria.inputs import SelectorInputs
from topk_ortho.constraint.selection.selection import PairSelection, n_pairs
from topk_ortho.constraint.selection.tiles import tile_side

CHUNK = 8192


def ortsae_pairs(e: SelectorInputs, *, seed: int) -> PairSelection:
    """Returns one pair per feature, best first, ties to the smaller (i, j).

    `requested` is `d_sae`.
    """
    cosine, d_sae = e.decoder, e.codes.d_sae
    best = _Best(cosine, d_sae)
    considered = tiles = 0
    side = tile_side(
        d_sae=min(d_sae, CHUNK), width=cosine.W.shape[1], memory_budget=e.memory_budget
    )
    for chunk in partition(d_sae, seed=seed):
        chunk = chunk.to(e.codes.device)
        chunk = chunk[cosine.inverse_norm[chunk] > 0].sort().values
        if len(chunk) > 1:
            _search(best, chunk, cosine, side=side)
        considered += n_pairs(len(chunk))
        tiles += n_pairs(-(-len(chunk) // side) + 1)
    found = (best.score > 0).nonzero().squeeze(1)
    partner = best.partner[found]
    i, j = torch.minimum(found, partner), torch.maximum(found, partner)
    score = cosine(i, j).float()  # in one call, so that a pair has one score
    order = torch.argsort(i * d_sae + j)
    order = order[torch.argsort(score[order], descending=True, stable=True)]
    return PairSelection(
        i[order],
        j[order],
        score[order],
        d_sae,
        considered,
        path="chunks",
        repeats=True,
        blocks=tiles,
        largest_block=side**2,
    )


def partition(d_sae: int, *, seed: int) -> tuple[Tensor, ...]:
    """Random chunks of nearly equal size, at most `CHUNK` features each; drawn on CPU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(d_sae, generator=generator).tensor_split(-(-d_sae // CHUNK))


def _search(best: _Best, chunk: Tensor, cosine: Cosine, *, side: int) -> None:
    """Offer every pair of a chunk that could be the best of one of its features."""
    for left, right, tile in cosine.tiles(chunk.split(side)):
        if left is not right:
            best.offer(tile, right, left, along=0)
        best.offer(tile, left, right, along=1)


class _Best:
    """The best partner of each feature so far.

    Attributes:
        partner: `[d_sae]` int64, the feature itself where there is none.
        score: `[d_sae]` float32, its cosine, 0 where there is none.
    """

    def __init__(self, cosine: Cosine, d_sae: int):
        self.cosine = cosine
        self.error = cosine.dot_error
        self.partner = torch.arange(d_sae, device=cosine.W.device)
        self.score = torch.zeros(d_sae, device=cosine.W.device)

    def offer(self, tile: Tensor, features: Tensor, others: Tensor, *, along: int) -> None:
        """Take in approximate cosines, those of a feature `along` dimension 0 or 1 of the tile."""
        # Both the tile's largest and the true largest may be off by the error.
        least = torch.maximum(tile.amax(along) - 2 * self.error, self.score[features] - self.error)
        found = (tile >= least.unsqueeze(along)).nonzero(as_tuple=True)
        feature, other = features[found[1 - along]], others[found[along]]
        score = self.cosine(torch.minimum(feature, other), torch.maximum(feature, other)).float()
        # Best first, ties to the smaller partner; the best so far competes with the new ones.
        feature = torch.cat([feature, features])
        other = torch.cat([other, self.partner[features]])
        score = torch.cat([score, self.score[features]])
        order = torch.argsort(other, stable=True)
        order = order[torch.argsort(score[order], descending=True, stable=True)]
        order = order[torch.argsort(feature[order], stable=True)]
        feature = feature[order]
        first = torch.ones_like(feature, dtype=torch.bool)
        first[1:] = feature[1:] != feature[:-1]
        self.partner[feature[first]] = other[order][first]
        self.score[feature[first]] = score[order][first]
