"""Random classes of the same size and frequency: what a class has to beat.

Each member is replaced by a sequence of as many tokens, drawn by lot among those of the text whose
frequency is nearest to its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from topk_ortho.inspect.absorption.classes import Member

NEAREST = 10
"""Sequences of like frequency among which one is drawn."""


@dataclass(frozen=True)
class _Sequences:
    """Sequences of one length: each one's place, and `[n]` how often it stands in the text."""

    members: list[Member]
    place: dict[Member, int]
    times: Tensor


class RandomClasses:
    """Draws classes from the sequences of a text.

    Args:
        contexts: `[n, context]` int64.
        bos: sequences that hold it are left out.
    """

    def __init__(self, contexts: Tensor, *, bos: int) -> None:
        self._contexts, self._bos = contexts, bos
        self._counted: dict[int, _Sequences] = {}

    def present(self, members: Iterable[Member]) -> frozenset[Member]:
        """Those that the text holds."""
        return frozenset(member for member in members if member in self._of(len(member)).place)

    def draw(self, members: frozenset[Member], generator: torch.Generator) -> frozenset[Member]:
        """One random class like `members`, which the text holds, and without any of them.

        It is smaller where the text has too few other sequences.
        """
        drawn = set[Member]()
        for member in sorted(members):
            all_ = self._of(len(member))
            own = all_.times[all_.place[member]]
            ratio = torch.maximum(all_.times, own) / torch.minimum(all_.times, own)
            nearest = (all_.members[at] for at in ratio.argsort(stable=True).tolist())
            free = (m for m in nearest if m not in members and m not in drawn)
            near = list(itertools.islice(free, NEAREST))
            if near:
                drawn.add(near[int(torch.randint(len(near), (1,), generator=generator))])
        return frozenset(drawn)

    def _of(self, length: int) -> _Sequences:
        """All sequences of so many tokens, in a defined order."""
        if length not in self._counted:
            windows = self._contexts.unfold(1, length, 1).reshape(-1, length)
            windows = windows[(windows != self._bos).all(1)]
            found, times = windows.unique(dim=0, return_counts=True)
            members = [tuple(ids) for ids in found.tolist()]
            place = {member: at for at, member in enumerate(members)}
            self._counted[length] = _Sequences(members, place, times.double())
        return self._counted[length]
