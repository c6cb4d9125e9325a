"""The memory of reading, measuring and shuffling activations, all of it on the host."""

from __future__ import annotations

from collections.abc import Iterator

from topk_ortho.activations.scaling import ESTIMATION_ROWS
from topk_ortho.activations.synthetic import BLOCK_ROWS, resolve
from topk_ortho.config import TrainConfig
from topk_ortho.machine.forecast import CYCLE, FLOAT, MOMENTS, START, Component, Shapes, since

# Per true feature and row of a block: on or off, magnitude, two random numbers, a child's place.
TRUTH_CELL = 12


def memory(s: Shapes, *, cached: int, calibration_rows: int) -> Iterator[Component]:
    """Yields the memory that the data takes.

    Args:
        s: sizes of the run.
        cached: bytes of activations that their source keeps.
        calibration_rows: fresh activations that are asked for after the last step.
    """
    size, c = "--buffer-rows", s.config
    first = FLOAT * s.d_in * ESTIMATION_ROWS
    yield Component("kept activations", cached, MOMENTS, "", "host")
    yield Component("a block of data", block_bytes(s), START[:1], "", "host")
    yield Component("blocks of the first rows", first, START[:1], "", "host")
    yield Component("first rows", first, START[:2], "", "host")
    yield Component("first rows in float64", 2 * first, START[1:2], "", "host")
    yield Component("scaled rows and in float64", 3 * first, START[2:3], "", "host")
    targets = 3 * FLOAT * s.target * ESTIMATION_ROWS  # and in float64
    yield Component("targets of the first rows", targets, START[1:2], "", "host")
    filling = _filling(s)
    held = filling // (FLOAT * _width(s))
    fillings = ["filling the buffer"]
    fillings += ["refilling the buffer"] * (c.steps * c.batch_size > held)
    fillings += ["filling for calibration"] * (calibration_rows > held - c.steps * c.batch_size)
    if fillings[1:] and prefetches(c, gpu=s.gpu):
        fillings += CYCLE
    yield Component("rows before shuffling", filling, tuple(fillings), size, "host")
    if fillings[1:]:
        yield Component("next filling", filling, tuple(fillings[1:]), size, "host")
    yield Component("data", filling, since("filling the buffer"), size, "host")


def prefetches(config: TrainConfig, *, gpu: bool) -> bool:
    """Returns whether a run makes the next filling of its buffer in a thread."""
    elsewhere = config.model_device not in ("", "cpu") or bool(config.device_map)
    return config.prefetch == "on" or (config.prefetch == "auto" and (gpu or elsewhere))


def block_bytes(s: Shapes) -> int:
    """Returns the bytes of one block of the data in the making."""
    return BLOCK_ROWS * (2 * FLOAT * _width(s) + TRUTH_CELL * n_true(s.config))


def n_true(config: TrainConfig) -> int:
    """Returns the number of true features in the data."""
    if config.plant.enabled:
        return config.plant.roots * (1 + config.plant.children)
    if config.activations != "synthetic":
        return 0
    c = resolve(config.synthetic)
    return (c.roots or 0) * (1 + (c.children or 0)) + (c.independent or 0)


def _filling(s: Shapes) -> int:
    """Returns the bytes of the buffer: whole blocks."""
    rows = max(s.config.buffer_rows, s.config.batch_size)
    if s.config.activations == "synthetic":
        rows = -(-rows // BLOCK_ROWS) * BLOCK_ROWS
    return FLOAT * _width(s) * rows


def _width(s: Shapes) -> int:
    """Returns the numbers of a row of data: what is read, and what a transcoder reconstructs."""
    return s.d_in + s.target
