"""The interface of all sources of activations: synthetic data, language models and files.

A source is a deterministic function of (split, block index): asking for a block twice gives the
same rows, so that the position in the data is a number and resuming is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor

Split = Literal["train", "eval"]


@dataclass(frozen=True)
class GroundTruth:
    """The features that are known to be in the data.

    Attributes:
        directions: `[n_true, d_in]` float32, unit rows.
        parent: `[n_true]` int64, the index of each feature's parent, -1 for none.
    """

    directions: Tensor
    parent: Tensor


class Block(NamedTuple):
    """Rows of activations that are produced together.

    Attributes:
        x: `[rows, d_in]` float32 on CPU.
        fired: `[rows, n_true]` bool, which true features are on; None without ground truth.
        target: `[rows, d_out]` float32 on CPU, what a transcoder reconstructs; None where an SAE
            reconstructs `x`.
    """

    x: Tensor
    fired: Tensor | None
    target: Tensor | None = None

    def take(self, rows: slice | Tensor) -> Block:
        """Returns some of the rows, by their places or a mask."""
        return Block(*(None if part is None else part[rows] for part in self))  # type: ignore[arg-type]


class Source(Protocol):
    """Activations by block.

    Attributes:
        d_in: width of an activation.
        truth: what is known about the data, None on plain real activations.
    """

    d_in: int
    truth: GroundTruth | None

    def n_blocks(self, split: Split) -> int | None:
        """Returns the number of blocks in a split; None where the data never ends."""

    def block(self, index: int, split: Split) -> Block:
        """Returns the rows of one block, the same at every call."""

    def where(self, index: int, split: Split, row: int) -> str:
        """Returns where a row of a block comes from, in words for the user."""


def innermost(source: Any) -> Any:
    """Returns the source that others are wrapped around, each of which has it as `source`."""
    while hasattr(source, "source"):
        source = source.source
    return source
