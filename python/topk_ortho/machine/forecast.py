"""The forecast of a run's peak memory, by component, from the settings alone.

Every part of a run yields what it holds as `Component`s, beside the code that allocates it; the
peak is the largest sum of what exists at one moment. On CPU the C library keeps what is freed (the
entry points ask it to), and new blocks do not fit all holes: `KEPT` comes on top. Measured peaks
and what they were forecast as are in `docs/memory.md`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from topk_ortho.config import TrainConfig

Place = Literal["device", "host"]

FLOAT, DOUBLE, INT = 4, 8, 8
"""Bytes of a number."""

START = ("reading the first rows", "measuring their variance", "scaling them",
         "filling the buffer")  # fmt: skip
CYCLE = ("refilling the buffer", "encoding", "decoding", "aux-k", "first tile",
         "selecting pairs", "penalty", "backward pass", "optimiser", "calibration on the way",
         "measuring on the way", "checkpoint")  # fmt: skip
END = ("filling for calibration", "calibration", "export", "matching", "encoding to measure",
       "measuring", "geometry", "splicing")  # fmt: skip
MOMENTS = START + CYCLE + END
"""The moments of a run in their order; those of a step (`CYCLE`) repeat."""

KEPT = 0.7
"""Share of the largest component that is gone at the peak, or not there yet, which the C library
keeps beside the peak: about the hole that other blocks do not fit. Fitted to measured peaks."""


@dataclass(frozen=True)
class Component:
    """One thing that takes memory.

    Attributes:
        name: what it is.
        bytes: how much, at its largest.
        when: the moments at which it exists.
        setting: the options that lower it.
        place: on the training device or in the memory of the process; the same on CPU.
    """

    name: str
    bytes: int
    when: tuple[str, ...]
    setting: str
    place: Place = "device"


def since(moment: str) -> tuple[str, ...]:
    """Returns a moment and all after it."""
    return MOMENTS[MOMENTS.index(moment) :]


def between(first: str, last: str) -> tuple[str, ...]:
    """Returns two moments and all between them."""
    return MOMENTS[MOMENTS.index(first) : MOMENTS.index(last) + 1]


@dataclass(frozen=True)
class Shapes:
    """The sizes that components are made of.

    What depends on the data is taken at its largest (a new set of pairs on every step), or half way
    between its bounds (how many features are dead).

    Attributes:
        config: a checked configuration.
        d_in: width of the activations.
        gpu: whether the training device is one.
        l0: active features of a row, at the step that has most.
        sparse: whether steps touch the active entries alone.
        target: width of what a transcoder reconstructs; 0 for an SAE, which reconstructs its input.
    """

    config: TrainConfig
    d_in: int
    gpu: bool
    l0: float
    sparse: bool
    target: int = 0

    @property
    def d_out(self) -> int:
        """Returns the width of what is reconstructed."""
        return self.target or self.d_in

    @property
    def rows(self) -> int:
        """Returns the bytes of one `[batch, d_in]`, float32."""
        return FLOAT * self.config.batch_size * self.d_in

    @property
    def rows_out(self) -> int:
        """Returns the bytes of one `[batch, d_out]`, float32."""
        return FLOAT * self.config.batch_size * self.d_out

    @property
    def encoder(self) -> int:
        """Returns the bytes of one `[d_in, d_sae]`, float32."""
        return FLOAT * self.d_in * self.config.sae.d_sae

    @property
    def matrix(self) -> int:
        """Returns the bytes of one `[d_sae, d_out]`, float32."""
        return FLOAT * self.d_out * self.config.sae.d_sae

    @property
    def parameters(self) -> int:
        """Returns the bytes of all weights."""
        centre = self.d_in if self.target else 0
        biases = FLOAT * (self.config.sae.d_sae + self.d_out + centre)
        return self.encoder + self.matrix + biases

    @property
    def prefiltered(self) -> bool:
        """Returns whether a bfloat16 product rules features out."""
        return self.sparse and self.config.sae.bf16_prefilter

    @property
    def dense(self) -> int:
        """Returns the bytes of the encoder's `[batch, d_sae]`: bfloat16 under autocast."""
        narrow = self.gpu or self.prefiltered
        return self.config.batch_size * self.config.sae.d_sae * (2 if narrow else FLOAT)

    @property
    def entries(self) -> int:
        """Returns the active entries of a batch."""
        return round(self.l0 * self.config.batch_size)


@dataclass(frozen=True)
class Forecast:
    """Returns the components of a run, those of size 0 left out."""

    components: tuple[Component, ...]

    @classmethod
    def of(cls, parts: Iterable[Component], *, gpu: bool) -> Forecast:
        """Returns the forecast of these components, with what the C library keeps beside them."""
        found = tuple(part for part in parts if part.bytes)
        if gpu:
            return cls(found)
        live = cls(tuple(replace(part, place="host") for part in found))
        peak = live.moment("host")
        others = [part.bytes for part in live.components if peak not in part.when]
        kept = round(KEPT * max(others, default=0))
        return cls((*live.components, Component(KEPT_NAME, kept, MOMENTS, "", "host")))

    def moment(self, place: Place) -> str:
        """Returns the moment at which most is held."""
        return max(MOMENTS, key=lambda moment: self.at(moment, place))

    def at(self, moment: str, place: Place) -> int:
        """Returns the bytes held at a moment, without what the process held before."""
        return sum(c.bytes for c in self.components if c.place == place and moment in c.when)

    def peak(self, place: Place) -> int:
        """Returns the most bytes held at one moment, without what the process held before."""
        return self.at(self.moment(place), place)

    def at_peak(self, place: Place) -> list[Component]:
        """Returns the components of the peak, the largest first."""
        moment = self.moment(place)
        found = [c for c in self.components if c.place == place and moment in c.when]
        return sorted(found, key=lambda c: -c.bytes)

    def as_json(self) -> dict[str, Any]:
        """Returns plain values for `manifest.json`."""
        places: tuple[Place, ...] = ("device", "host")
        return {
            "peak_bytes": {place: self.peak(place) for place in places},
            "components": [asdict(c) for c in self.components],
        }


KEPT_NAME = "kept by the allocator"


def readable(bytes_: int) -> str:
    """Returns the size in MB, or in GB from 1,000 MB on."""
    return f"{bytes_ / 1e9:.2f} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.1f} MB"
