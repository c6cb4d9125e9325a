"""Metrics on held-out activations in the course of a run, on a smaller sample than at its end.

They change nothing in the run: what calibration sets is put back, and the data is not advanced.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from topk_ortho.activations.memory import block_bytes, n_true
from topk_ortho.config import TrainConfig
from topk_ortho.machine.forecast import DOUBLE, FLOAT, Component, Shapes
from topk_ortho.sae import SAE
from topk_ortho.training import evaluation
from topk_ortho.training.state import TrainState

CONTEXTS = 16
"""Contexts of a language model that the CE score is measured on."""
FIGURES = (
    "rows", "explained_variance", "l0", "dead_features", "absorption_rate", "excess", "base_miss",
    "mcc", "ce_score", "kl_score",
)  # fmt: skip
"""Metrics that are logged, as far as the data has them, by their names in `result.json`."""


def is_due(config: TrainConfig, step: int) -> bool:
    """Returns whether the metrics are measured after so many steps; the last step is one."""
    every = config.evaluate_every
    return step > 0 and every > 0 and (step % every == 0 or step == config.steps)


def samples(config: TrainConfig) -> int:
    """Returns the held-out activations that are measured: no more than at the end."""
    return min(config.evaluate_samples, config.eval_samples)


def measure(state: TrainState, calibrating: Tensor | None = None) -> dict[str, Any]:
    """Returns a line of the log: the step, and the metrics under `held_out`.

    Args:
        state: the run.
        calibrating: `[rows, d_in]`, `upcoming` of it; taken now unless given.
    """
    started, sae, rows = time.perf_counter(), state.sae, samples(state.config)
    with state.buffer.alone(), _put_back(sae):
        sae.calibrate(_pieces(state, calibrating))
        figures, _ = evaluation.evaluate(
            sae, state.data, samples=rows, contexts=CONTEXTS, geometry=False
        )
    found = {name: figures[name] for name in FIGURES if name in figures}
    seconds = round(time.perf_counter() - started, 3)
    return {"step": state.step, "held_out": found, "held_out_seconds": seconds}


def _pieces(state: TrainState, calibrating: Tensor | None) -> Iterator[Tensor]:
    """Yields activations for calibration, few enough to be encoded at once."""
    ready = upcoming(state) if calibrating is None else calibrating
    yield from ready.split(evaluation.rows_at_once(state.sae.d_sae))


def upcoming(state: TrainState) -> Tensor:
    """Returns training activations that are in the buffer already, for calibration."""
    return state.buffer.upcoming(samples(state.config))


def memory(s: Shapes, *, encode_copies: int) -> Iterator[Component]:
    """Yields the matching with true features, and the codes of a piece of held-out rows."""
    d_sae, size, when = s.config.sae.d_sae, "--sae.d-sae", ("measuring on the way",)
    codes = FLOAT * d_sae * min(samples(s.config), evaluation.rows_at_once(d_sae))
    yield Component("a block of held-out data", block_bytes(s), when, "", "host")
    # while they are made or checked, whichever takes more
    yield Component("codes in the making", max(encode_copies, 2) * codes, when, size)
    yield Component("measured codes", codes, when, size)
    if cells := n_true(s.config) * d_sae:
        matching = 2 * s.matrix + (2 * DOUBLE + 3) * cells
        yield Component("matching with true features", matching, when, size, "host")


@contextmanager
def _put_back(sae: SAE) -> Iterator[None]:
    """Restore afterwards what calibration sets."""
    kept = {name: value.clone() for name, value in sae.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in sae.named_buffers():
                value.copy_(kept[name])
