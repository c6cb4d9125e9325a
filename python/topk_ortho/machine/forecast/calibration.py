"""What calibrating the threshold of BatchTopK holds."""

from __future__ import annotations

from collections.abc import Iterator

from topk_ortho.config import TrainConfig
from topk_ortho.machine.forecast.component import Component
from topk_ortho.machine.forecast.sizes import FLOAT, TOPK_CELL, Sizes
from topk_ortho.sae.largest import PIECE
from topk_ortho.training import evaluation


def calibration_rows(c: TrainConfig) -> int:
    """Rows that the threshold is calibrated on, as `evaluation.calibrate_threshold` has them."""
    most = evaluation.CALIBRATION_CELLS // c.sae.d_sae
    rows = min(evaluation.CALIBRATION_ROWS, max(evaluation.LEAST_CALIBRATION_ROWS, most))
    return max(1, rows // c.batch_size) * c.batch_size


def calibration(s: Sizes) -> Iterator[Component]:
    """The largest codes of every batch, piece by piece, and of all of them."""
    c, size = s.config, "--sae.d-sae"
    encoding, looking = ("encoding to calibrate",), ("calibration",)
    rows = min(c.batch_size, evaluation.rows_at_once(c.sae.d_sae))
    cells = rows * c.sae.d_sae
    share = min(cells, round(4 * c.sae.k * rows))
    piece = min(cells, PIECE)
    kept = min(cells, -(-cells // piece) * min(share, piece))
    found = FLOAT * share * -(-calibration_rows(c) // rows)
    if calibration_rows(c) > rows:
        yield Component("codes of the rows before", FLOAT * cells, encoding, size)
    yield Component("codes to calibrate on", FLOAT * cells, encoding + looking, size)
    if not s.gpu:
        ranking = TOPK_CELL * max(piece, kept) + FLOAT * kept
        yield Component("ranking of codes", ranking, looking, size, blocks=2)
    yield Component("largest codes", found, (*encoding, *looking, "sorting the largest"), "--sae.k")
    # Put together, and sorted with their places.
    yield Component("the same, sorted", 4 * found, ("sorting the largest",), "--sae.k", blocks=4)
