"""What preparing and shuffling the activations hold."""

from __future__ import annotations

from collections.abc import Iterator

from topk_ortho.activations.scaling import ESTIMATION_ROWS
from topk_ortho.activations.synthetic import BLOCK_ROWS
from topk_ortho.machine.forecast.calibration import calibration_rows
from topk_ortho.machine.forecast.component import END, MOMENTS, START, Component, between, since
from topk_ortho.machine.forecast.sizes import FLOAT, Sizes


def data(s: Sizes, cached: int) -> Iterator[Component]:
    size, c = "--buffer-rows", s.config
    yield Component("kept activations", cached, MOMENTS, "", "host")
    first = FLOAT * s.d_in * ESTIMATION_ROWS
    yield Component("a block of data", s.block, START[:1], "", "host", blocks=4)
    yield Component("blocks of the first rows", first, START[:1], "", "host",
                    blocks=ESTIMATION_ROWS // BLOCK_ROWS)  # fmt: skip
    yield Component("first rows", first, START[:3], "", "host")
    yield Component("first rows in float64", 2 * first, START[1:2], "", "host")
    yield Component("scaled rows", first, START[2:4], "", "host")
    yield Component("scaled rows in float64", 2 * first, START[3:4], "", "host")
    fillings = ["filling the buffer"]
    if c.steps * c.batch_size * s.d_in * FLOAT > s.filling:
        fillings.append("refilling the buffer")
    left = s.filling // (FLOAT * s.d_in) - c.steps * c.batch_size
    if s.ranks_batch and calibration_rows(c) > left:
        fillings.append("filling for calibration")
    blocks = max(1, s.filling // (FLOAT * s.d_in * BLOCK_ROWS))
    for when in fillings:
        where = (when,)
        yield Component("blocks to be shuffled", s.filling, where, size, "host", blocks=blocks)
        yield Component("rows before shuffling", s.filling, where, size, "host")
        if when != "filling the buffer":
            both = between(when, "sorting the largest") if when in END else where
            yield Component("next filling", s.filling, both, size, "host")
    yield Component("data", s.filling, since("filling the buffer"), size, "host")
