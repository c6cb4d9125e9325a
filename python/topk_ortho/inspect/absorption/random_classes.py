"""Random classes of the same size and frequency, which a class has to beat.

Each member is replaced by a sequence of as many tokens, drawn at random among those of the text
whose frequency is nearest to its own. A draw considers a few sequences per member, whatever the
vocabulary.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from topk_ortho.inspect.absorption.classes import Member

NEAREST = 10
"""Number of sequences of similar frequency among which one is drawn."""


@dataclass(frozen=True)
class _Sequences:
    """Sequences of one length.

    Attributes:
        members: in a defined order.
        times: how often each stands in the text.
        of_times: places in `members` of those that stand there so often, in their order.
    """

    members: list[Member]
    times: dict[Member, int]
    of_times: dict[int, list[int]]


class _Others:
    """The sequences of one length that a class does not have; the same for all of its draws."""

    def __init__(self, all_: _Sequences, members: frozenset[Member]) -> None:
        self.all, self._members = all_, members
        self.times = sorted(all_.of_times)
        self._of_times: dict[int, list[int]] = {}

    def of(self, times: int) -> list[int]:
        """Places of those that stand in the text so often."""
        if times not in self._of_times:
            places, all_ = self.all.of_times[times], self.all.members
            self._of_times[times] = [p for p in places if all_[p] not in self._members]
        return self._of_times[times]


class _Free:
    """The others that one draw has not taken yet, nearest in frequency first."""

    def __init__(self, others: _Others) -> None:
        self._others = others
        self._times = [*others.times]  # of which some may be free
        self._free: dict[int, deque[int]] = {}

    def take(self, own: int, generator: torch.Generator) -> Member | None:
        """One of the `NEAREST` to `own` times, at random; None where there is none left."""
        near = list(itertools.islice(self._nearest(own), NEAREST))
        if not near:
            return None
        times, place = near[int(torch.randint(len(near), (1,), generator=generator))]
        self._free[times].remove(place)  # one of the first `NEAREST`
        return self._others.all.members[place]

    def _nearest(self, own: int) -> Iterator[tuple[int, int]]:
        """`(times, place)` by the ratio of `times` and `own`, then by place."""
        times, above = self._times, bisect_left(self._times, own)
        below = above - 1
        while True:
            while above < len(times) and not self._of(times[above]):
                del times[above]
            while below >= 0 and not self._of(times[below]):
                del times[below]
                below, above = below - 1, above - 1
            beside = ([times[below]] if below >= 0 else []) + times[above : above + 1]
            if not beside:
                return
            least = min(_ratio(t, own) for t in beside)
            nearest = [t for t in beside if _ratio(t, own) == least]
            heads = [[(place, t) for place in itertools.islice(self._of(t), NEAREST)]
                     for t in nearest]  # fmt: skip
            yield from ((t, place) for place, t in heapq.merge(*heads))
            below -= below >= 0 and times[below] in nearest
            above += times[above] in nearest if above < len(times) else 0

    def _of(self, times: int) -> deque[int]:
        """Places of the free ones that stand in the text so often."""
        if times not in self._free:
            self._free[times] = deque(self._others.of(times))
        return self._free[times]


def _ratio(a: int, b: int) -> float:
    return max(a, b) / min(a, b)


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
        """Returns those that the text contains."""
        return frozenset(member for member in members if member in self._of(len(member)).times)

    def draw(self, members: frozenset[Member], generator: torch.Generator) -> frozenset[Member]:
        """Returns a random class like `members`, which the text contains, without any of them.

        It is smaller where the text has too few other sequences.
        """
        return next(self.draws(members, generator))

    def draws(
        self, members: frozenset[Member], generator: torch.Generator
    ) -> Iterator[frozenset[Member]]:
        """Yields such classes without end, each independent of those before."""
        ordered = sorted(members)
        own = [self._of(len(member)).times[member] for member in ordered]
        lengths = {len(member) for member in ordered}
        others = {length: _Others(self._of(length), members) for length in sorted(lengths)}
        while True:
            free = {length: _Free(some) for length, some in others.items()}
            drawn = (
                free[len(member)].take(times, generator)
                for member, times in zip(ordered, own, strict=True)
            )
            yield frozenset(member for member in drawn if member is not None)

    def _of(self, length: int) -> _Sequences:
        """All sequences of so many tokens, in a defined order."""
        if length not in self._counted:
            windows = self._contexts.unfold(1, length, 1).reshape(-1, length)
            windows = windows[(windows != self._bos).all(1)]
            found, times = _counted(windows)
            members = [tuple(ids) for ids in found.tolist()]
            of_times: dict[int, list[int]] = {}
            for place, n in enumerate(times.tolist()):
                of_times.setdefault(n, []).append(place)
            times_of = dict(zip(members, times.tolist(), strict=True))
            self._counted[length] = _Sequences(members, times_of, of_times)
        return self._counted[length]


def _counted(windows: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows of `[n, length]`, sorted, and how often each is there."""
    if windows.shape[1] > 1:
        return windows.unique(dim=0, return_counts=True)
    found, times = windows.flatten().unique(return_counts=True)
    return found[:, None], times
