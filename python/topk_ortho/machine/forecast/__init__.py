"""What a run will hold at its peak, by component, before its first step: from the settings alone.

The peak is the largest sum of what exists at one moment; on CPU what the C library keeps of freed
blocks (`heap.py`) stands on top. One line per component, its size from the shapes that it consists
of: `data.py`, `step.py`, `pairs.py`, `calibration.py`, `end.py`. Measured peaks and what they were
forecast as are in `docs/memory.md`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from topk_ortho.config import TrainConfig
from topk_ortho.machine.forecast.component import (
    CYCLE,
    END,
    MOMENTS,
    START,
    Component,
    Place,
    since,
)
from topk_ortho.machine.forecast.data import data
from topk_ortho.machine.forecast.end import end
from topk_ortho.machine.forecast.heap import Heap
from topk_ortho.machine.forecast.pairs import history, pairs
from topk_ortho.machine.forecast.sizes import Sizes
from topk_ortho.machine.forecast.step import backward, dead, decoding, encoding, model

ROUNDS = 3  # steps after which the heap lies about as it will in all later ones
SEEDS = 12


__all__ = ["MOMENTS", "Component", "Forecast", "Place", "forecast", "readable"]


@dataclass(frozen=True)
class Forecast:
    """The components of a run, those of size 0 left out."""

    components: tuple[Component, ...]

    def moment(self, place: Place) -> str:
        """When most is held."""
        return max(MOMENTS, key=lambda moment: self.at(moment, place))

    def at(self, moment: str, place: Place) -> int:
        """Bytes held at a moment, without what the process held before."""
        return sum(c.bytes for c in self.components if c.place == place and moment in c.when)

    def peak(self, place: Place) -> int:
        """Bytes at the dearest moment, without what the process held before."""
        return self.at(self.moment(place), place)

    def at_peak(self, place: Place) -> list[Component]:
        """What the peak is made of, the largest first."""
        moment = self.moment(place)
        found = [c for c in self.components if c.place == place and moment in c.when]
        return sorted(found, key=lambda c: -c.bytes)

    def as_json(self) -> dict[str, Any]:
        """For `manifest.json`."""
        places: tuple[Place, ...] = ("device", "host")
        return {
            "peak_bytes": {place: self.peak(place) for place in places},
            "components": [asdict(c) for c in self.components],
        }


def forecast(
    config: TrainConfig, *, d_in: int, device: str, cached: int = 0, loaded: int = 0
) -> Forecast:
    """The components of one arm.

    Args:
        config: a checked configuration.
        d_in: width of the activations.
        device: type of the training device, `cpu` or `cuda`.
        cached: bytes of activations that their source keeps.
        loaded: bytes of code that the process has yet to load.
    """
    gpu = device != "cpu"
    s = Sizes(config, d_in, gpu=gpu)
    in_order = (data(s, cached), model(s), encoding(s), decoding(s), dead(s), pairs(s),
                backward(s), history(s), end(s))  # fmt: skip
    parts = [c for part in in_order for c in part if c.bytes]
    if not gpu:
        parts = [replace(c, place="host") for c in parts]
        parts += _kept(Forecast(tuple(parts)))
    if loaded:
        when = since("building the SAE")
        parts.append(Component("code loaded on first use", loaded, when, "", "host"))
    return Forecast(tuple(parts))


def _kept(live: Forecast) -> Iterator[Component]:
    """How much more the heap takes than ever lives in it at one time."""
    ends = [_heap_end(live.components, random.Random(seed)) for seed in range(SEEDS)]
    size = sum(ends) // SEEDS - live.peak("host")
    yield Component("kept by the allocator", max(0, size), MOMENTS, "", "host")


def _heap_end(parts: tuple[Component, ...], chance: random.Random) -> int:
    """How far the heap of a process grows that goes through all moments."""
    heap = Heap(chance)
    made: set[str] = set()
    for moment in (*START, *(CYCLE * ROUNDS), *END):
        made.add(moment)
        alive = [c for c in parts if moment in c.when and (not c.born or c.born in made)]
        for c in parts:
            if c in heap and c not in alive:
                heap.give_back(c)
        for c in alive:
            if c not in heap:
                heap.take(c, [c.bytes // c.blocks] * c.blocks)
    return heap.end


def readable(bytes_: int) -> str:
    """In MB, or GB from 1,000 MB on."""
    return f"{bytes_ / 1e9:.2f} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.1f} MB"
