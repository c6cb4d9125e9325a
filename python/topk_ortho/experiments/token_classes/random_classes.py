"""Random classes of the same size and frequency: what a class has to beat.

Each member is replaced by a sequence of as many tokens, drawn by lot among those of the text whose
frequency is nearest to its own.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from topk_ortho.experiments.token_classes.classes import Member

NEAREST = 10
"""Sequences of like frequency among which one is drawn."""


class RandomClasses:
    """Draws classes from the sequences of a text.

    Args:
        contexts: `[n, context]` int64.
        bos: sequences that hold it are left out.
    """

    def __init__(self, contexts: Tensor, *, bos: int) -> None:
        self._contexts, self._bos = contexts, bos
        self._counted: dict[int, dict[Member, int]] = {}

    def present(self, members: Iterable[Member]) -> frozenset[Member]:
        """Those that the text holds."""
        return frozenset(member for member in members if member in self._counts(len(member)))

    def draw(self, members: frozenset[Member], generator: torch.Generator) -> frozenset[Member]:
        """One random class like `members`, which the text holds, and without any of them.

        It is smaller where the text has too few other sequences.
        """
        drawn = set[Member]()
        for member in sorted(members):
            counts = self._counts(len(member))
            free = (m for m in counts if m not in members and m not in drawn)
            near = sorted(free, key=lambda m: _ratio(counts[m], counts[member]))[:NEAREST]
            if near:
                drawn.add(near[int(torch.randint(len(near), (1,), generator=generator))])
        return frozenset(drawn)

    def _counts(self, length: int) -> dict[Member, int]:
        """How often each sequence of so many tokens stands in the text, in a defined order."""
        if length not in self._counted:
            windows = self._contexts.unfold(1, length, 1).reshape(-1, length)
            windows = windows[(windows != self._bos).all(1)]
            found, times = windows.unique(dim=0, return_counts=True)
            pairs = zip(found.tolist(), times.tolist(), strict=True)
            self._counted[length] = {tuple(ids): n for ids, n in pairs}
        return self._counted[length]


def _ratio(count: int, other: int) -> float:
    return max(count, other) / min(count, other)
