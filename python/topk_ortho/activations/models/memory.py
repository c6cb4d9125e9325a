"""The working memory of a language model's passes; its weights are in use before a run begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from topk_ortho.activations.models.remembering import MOST_BYTES
from topk_ortho.machine.forecast import FLOAT, Component, Place

READING = ("reading the first rows", "filling the buffer", "refilling the buffer",
           "filling for calibration", "encoding to measure")  # fmt: skip
RESIDUALS, INSIDE = 6, 3
"""Tensors of the width of the residual stream, and of the MLP, that a block has at once."""
LOGITS = 3
"""Logits held at once: of the model as it is, of the splice before, and those in the making."""
ROWS_OF_LOGITS = 5
"""Of one context in float32: logarithms of both, probabilities, a difference and a product."""

INTO_BLOCKS = 2
"""Blocks whose input is kept for further passes: that of the hook point, and behind the last."""


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a language model.

    Attributes:
        d_model: width of the residual stream.
        d_mlp: width inside an MLP.
        d_vocab: number of token ids.
        cell: bytes of a number.
        place: where it is, None on a device that nothing else of the run is on.
    """

    d_model: int
    d_mlp: int
    d_vocab: int
    cell: int
    place: Place | None


def memory(
    model: ModelSizes, *, context: int, reading: int, splicing: int, scored: int
) -> Iterator[Component]:
    """Yields what passes of a language model take.

    Args:
        model: its sizes.
        context: tokens of a context.
        reading: tokens of a pass for activations.
        splicing: contexts of a pass for logits.
        scored: contexts that are spliced into in all, at most.
    """
    if model.place is None:
        return
    block = model.cell * (RESIDUALS * model.d_model + INSIDE * model.d_mlp)
    yield Component("a pass of the language model", reading * block, READING, "", model.place)
    row = context * model.d_vocab
    logits = LOGITS * splicing * row * model.cell + ROWS_OF_LOGITS * FLOAT * row
    yield Component("logits of the language model", logits, ("splicing",), "--context", model.place)
    kept = min(MOST_BYTES, INTO_BLOCKS * scored * context * model.d_model * model.cell)
    yield Component(
        "what goes into its blocks", kept, ("splicing",), "--eval-contexts", model.place
    )
