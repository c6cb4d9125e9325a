"""One thing that takes memory, and the moments of a run at which it may exist.

The moments are those of a run in their order; those of a step (`CYCLE`) come round again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Place = Literal["device", "host"]

START = ("reading the first rows", "measuring their variance", "scaling them", "their mean",
         "building the SAE", "filling the buffer")  # fmt: skip
CYCLE = ("refilling the buffer", "encoding", "decoding", "aux-k", "first tile", "next tile",
         "selecting pairs", "penalty", "gradient of the loss", "backward pass", "optimiser",
         "log line", "checkpoint")  # fmt: skip
END = ("filling for calibration", "encoding to calibrate", "calibration", "sorting the largest",
       "export", "matching", "assigning", "encoding to measure", "measuring", "counting",
       "encoding on", "geometry", "next cosines", "geometry on")  # fmt: skip
MOMENTS = START + CYCLE + END


@dataclass(frozen=True)
class Component:
    """One thing that takes memory.

    Attributes:
        name: what it is.
        bytes: how much, at its largest.
        when: the moments at which it exists.
        setting: the options that lower it.
        place: on the training device or in the memory of the process; the same on CPU.
        born: where it outlives a step, the moment of the first one that makes it.
        blocks: allocations that it consists of, of about one size.
    """

    name: str
    bytes: int
    when: tuple[str, ...]
    setting: str
    place: Place = "device"
    born: str = ""
    blocks: int = 1


def since(moment: str) -> tuple[str, ...]:
    """A moment and all after it."""
    return MOMENTS[MOMENTS.index(moment) :]


def between(first: str, last: str) -> tuple[str, ...]:
    """Two moments and all between them."""
    return MOMENTS[MOMENTS.index(first) : MOMENTS.index(last) + 1]
