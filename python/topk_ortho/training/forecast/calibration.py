"""What calibrating the threshold of BatchTopK holds."""

from __future__ import annotations

from collections.abc import Iterator

from topk_ortho.config import TrainConfig
from topk_ortho.training import evaluation
from topk_ortho.training.forecast.component import Component
from topk_ortho.training.forecast.sizes import FLOAT, TOPK_CELL, Sizes


def calibration_rows(c: TrainConfig) -> int:
    """Rows that the threshold is calibrated on, as `evaluation.calibrate_threshold` has them."""
    most = evaluation.CALIBRATION_CELLS // c.sae.d_sae
    rows = min(evaluation.CALIBRATION_ROWS, max(evaluation.LEAST_CALIBRATION_ROWS, most))
    return max(1, rows // c.batch_size) * c.batch_size


def calibration(s: Sizes) -> Iterator[Component]:
    c, now = s.config, ("calibration",)
    rows = min(c.batch_size, evaluation.rows_at_once(c.sae.d_sae))
    cells = rows * c.sae.d_sae
    share = min(cells, round(4 * c.sae.k * rows))
    piece = min(cells, evaluation.PIECE)
    kept = min(cells, -(-cells // piece) * min(share, piece))
    found = FLOAT * min(4 * c.sae.k * calibration_rows(c), 2.0**62)
    size = "--sae.d-sae"
    yield Component("codes, calibration", FLOAT * cells, now, size)
    if not s.gpu:
        yield Component("largest codes", TOPK_CELL * max(piece, kept) + FLOAT * kept, now,
                        size, blocks=2)  # fmt: skip
    # Found, put together, and sorted with their places.
    yield Component("largest of all", round(5 * found), now, "--sae.k", blocks=4)
