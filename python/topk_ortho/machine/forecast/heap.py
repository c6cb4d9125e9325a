"""How far a C heap grows when blocks of given lifetimes live in it: more than they are together.

The entry points have the C library keep what is freed (`hardware.keep_freed_memory`). Then a block
takes the smallest hole that it fits in, and where there is none the heap grows; neighbouring holes
become one. What is held lies between holes, and a large block finds no room in two small ones.
Small things that live on in a hole have the same effect, and where they lie differs from one run to
the next: they are left by chance, and the mean over a few fixed seeds is the answer.
Costs one pass over the holes per block, of which a run has some hundreds.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

CRUMB = 1024
SHARE = 0.17
"""How often a crumb stays where a block was; fitted to measured peaks."""


@dataclass
class Heap:
    """Blocks by name, best fit.

    Attributes:
        chance: decides where crumbs stay.
        end: bytes up to the highest block that there ever was.
    """

    chance: random.Random
    end: int = 0
    _top: int = 0
    _holes: dict[int, int] = field(default_factory=dict)  # start: stop
    _blocks: dict[object, list[tuple[int, int]]] = field(default_factory=dict)

    def __contains__(self, name: object) -> bool:
        return name in self._blocks

    def take(self, name: object, sizes: Iterable[int]) -> None:
        """Allocate blocks under one name."""
        self._blocks[name] = [self._place(size) for size in sizes if size]

    def give_back(self, name: object) -> None:
        """Free the blocks of a name."""
        for start, stop in self._blocks.pop(name):
            stays = stop - start > CRUMB and self.chance.random() < SHARE
            self._free(start + CRUMB if stays else start, stop)

    def _place(self, size: int) -> tuple[int, int]:
        fitting = [(stop - start, start) for start, stop in self._holes.items()]
        best = min((hole for hole in fitting if hole[0] >= size), default=None)
        if best is None:
            start = self._top
            self._top += size
            self.end = max(self.end, self._top)
        else:
            room, start = best
            del self._holes[start]
            if room > size:
                self._holes[start + size] = start + room
        return start, start + size

    def _free(self, start: int, stop: int) -> None:
        before = next((s for s, e in self._holes.items() if e == start), None)
        if before is not None:
            del self._holes[before]
            start = before
        stop = self._holes.pop(stop, stop)
        if stop == self._top:
            self._top = start
        else:
            self._holes[start] = stop
