"""Random pairs with the firing rates and degrees of chosen ones: a sharper control than `random`.

The pairs of a selection are carried over by a random permutation of the features within groups of
neighbouring firing rate. Every feature hands its whole set of partners to one of about its own
rate, so that degrees, rates and scores are those of the selection, and only who is paired with whom
is lost.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from topk_ortho.pairs.selection import PairSelection

LEAST_GROUP = 16
"""Features of a group at least, so that one meets its old partner by chance alone. The most
frequent features are few and far apart in rate: there this limit counts."""
RATE_RATIO = 1.5
"""Largest over smallest rate of a group that is larger: what sampling makes of equal rates. A
feature that fires on 25 rows of a batch fires on 20 to 30 of the next."""


def matched_pairs(chosen: PairSelection, counts: Tensor, *, seed: int) -> PairSelection:
    """The chosen pairs between other features of about the same rate.

    Args:
        chosen: a selection among features that fired.
        counts: `[d_sae]` int64, rows on which each feature is active.
        seed: of the permutation; drawn on CPU, so that every device gets the same.
    """
    onto = permutation(counts.cpu(), seed=seed).to(chosen.i.device)
    a, b = onto[chosen.i], onto[chosen.j]
    i, j = torch.minimum(a, b), torch.maximum(a, b)
    order = torch.argsort(i * len(counts) + j)
    order = order[torch.argsort(chosen.score[order], descending=True, stable=True)]
    return replace(chosen, i=i[order], j=j[order], score=chosen.score[order], path="matched")


def permutation(counts: Tensor, *, seed: int) -> Tensor:
    """`[d_sae]` int64: the feature that takes each one's place; silent ones keep their own."""
    generator = torch.Generator().manual_seed(seed)
    onto = torch.arange(len(counts))
    fired = (counts > 0).nonzero().squeeze(1)
    by_rate = fired[torch.argsort(counts[fired], stable=True, descending=True)]
    group = torch.empty(len(by_rate), dtype=torch.float64)
    for number, (start, stop) in enumerate(groups(counts[by_rate])):
        group[start:stop] = number
    lot = torch.rand(len(by_rate), generator=generator, dtype=torch.float64)
    onto[by_rate] = by_rate[torch.argsort(group + lot)]
    return onto


def groups(counts: Tensor) -> list[tuple[int, int]]:
    """Spans `start:stop` of neighbouring rates; a remainder joins the group before it.

    Args:
        counts: `[n]` int64, falling.
    """
    n, spans, start = len(counts), list[tuple[int, int]](), 0
    while start < n:
        similar = int((counts * RATE_RATIO >= counts[start]).sum())
        stop = max(start + LEAST_GROUP, similar)
        if n - stop < LEAST_GROUP:
            stop = n
        spans.append((start, stop))
        start = stop
    return spans
