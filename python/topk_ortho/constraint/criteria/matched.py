"""Random pairs with the firing rates of chosen ones, and none of those: the sharper control.

The pairs of a selection are mapped by a random permutation of the features within groups of
similar firing rate, so that rates, scores and nearly all degrees are those of the selection,
and which features are paired is lost. A pair that lands on a chosen one is mapped again by
another permutation, in the end within larger groups: a control that shares pairs with the arm
it is compared with would be weaker, the more so the smaller the dictionary is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from topk_ortho.constraint.selection.selection import PairSelection

LEAST_GROUP = 16
"""Smallest size of a group, so that a feature meets its old partner by chance alone. The most
frequent features are few and far apart in rate: there this limit counts."""
RATE_RATIO = 1.5
"""Largest over smallest rate of a larger group: as far apart as sampling sets equal rates. A
feature that fires on 25 rows of a batch fires on 20 to 30 of the next."""


GROWTH = (1, 1, 1, 2, 4, 8, 16)
"""Factor by which the groups grow at each try for the pairs that are left."""


def matched_pairs(chosen: PairSelection, counts: Tensor, *, seed: int) -> PairSelection:
    """Returns as many pairs as were chosen, of about the same rates, and none of the chosen ones.

    Where the features that fired have hardly any other pair, a last try takes any two of them, and
    what is still left stays as it was chosen.

    Args:
        chosen: a selection among features that fired.
        counts: `[d_sae]` int64, rows on which each feature is active.
        seed: of the permutations; drawn on CPU, so that every device gets the same ones.
    """
    d_sae, permuted = len(counts), Permutations(counts.cpu(), seed=seed)
    found = chosen.i * d_sae + chosen.j
    keys = torch.sort(found).values
    left = torch.arange(len(found), device=found.device)
    for growth in (*GROWTH, d_sae):
        if not len(left):
            break
        onto = permuted.draw(LEAST_GROUP * growth).to(found.device)
        a, b = onto[chosen.i[left]], onto[chosen.j[left]]
        new = torch.minimum(a, b) * d_sae + torch.maximum(a, b)
        free = ~_in(new, keys) & ~_in(new, torch.sort(found).values)
        found[left[free]] = new[free]
        left = left[~free]
    order = torch.argsort(found)
    order = order[torch.argsort(chosen.score[order], descending=True, stable=True)]
    found = found[order]
    return replace(
        chosen.settled,
        i=found // d_sae,
        j=found % d_sae,
        score=chosen.score[order],
        path="matched",
    )


def _in(keys: Tensor, ordered: Tensor) -> Tensor:
    """Returns which keys are among the others, which are sorted; neither may be empty."""
    place = torch.searchsorted(ordered, keys).clamp(max=len(ordered) - 1)
    return ordered[place] == keys


class Permutations:
    """Random permutations of the features that fired, within groups of similar firing rate.

    Args:
        counts: `[d_sae]` int64 on CPU; silent features keep their own place.
        seed: of all that are drawn, one after the other.
    """

    def __init__(self, counts: Tensor, *, seed: int) -> None:
        fired = (counts > 0).nonzero().squeeze(1)
        self._by_rate = fired[torch.argsort(counts[fired], stable=True, descending=True)]
        self._counts: list[int] = counts[self._by_rate].tolist()
        self._d_sae = len(counts)
        self._generator = torch.Generator().manual_seed(seed)
        self._group: dict[int, Tensor] = {}

    def draw(self, least: int = LEAST_GROUP) -> Tensor:
        """Returns `[d_sae]` int64: the feature that takes each one's place."""
        if least not in self._group:
            sizes = torch.tensor([b - a for a, b in groups(self._counts, least=least)])
            number = torch.arange(len(sizes), dtype=torch.float64)
            self._group[least] = torch.repeat_interleave(number, sizes.long())
        n = len(self._by_rate)
        chance = torch.rand(n, generator=self._generator, dtype=torch.float64)
        onto = torch.arange(self._d_sae)
        onto[self._by_rate] = self._by_rate[torch.argsort(self._group[least] + chance)]
        return onto


def groups(counts: Sequence[int], *, least: int = LEAST_GROUP) -> list[tuple[int, int]]:
    """Spans `start:stop` of neighbouring rates; a remainder joins the group before it.

    Args:
        counts: falling.
        least: how many features make a group at least.
    """
    n, spans, start = len(counts), list[tuple[int, int]](), 0
    while start < n:
        similar = bisect_left(counts, True, key=lambda c: c * RATE_RATIO < counts[start])
        stop = max(start + least, similar)
        if n - stop < least:
            stop = n
        spans.append((start, stop))
        start = stop
    return spans
