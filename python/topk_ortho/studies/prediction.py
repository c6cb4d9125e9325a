"""A prediction of an ablation's cost: time by stored or timed steps, memory by forecast.

A configuration of which another seed has finished in the same folder takes that run's time. Any
other is timed: a few steps are trained and thrown away. Steps become slower when features die and
faster when the penalty has thinned the pairs, so a timed number is a guide, no promise.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from topk_ortho.activations import Activations, prepare
from topk_ortho.config import TrainConfig
from topk_ortho.config.toml import config_hash
from topk_ortho.machine import hardware
from topk_ortho.machine.forecast import readable
from topk_ortho.report.table import comparison_table
from topk_ortho.statistics import finite
from topk_ortho.studies.outcome import result_of
from topk_ortho.studies.plan import Run
from topk_ortho.training.announce import LOADED, cached_blocks, places
from topk_ortho.training.memory import forecast
from topk_ortho.training.state import TrainState
from topk_ortho.training.step import train_step

WARM_STEPS = 3
TIMED_STEPS = 10


@dataclass(frozen=True)
class Prediction:
    """One row of the plan.

    Attributes:
        runs: seeds; `left` of them are still to be computed.
        seconds: of one run.
        source: where the seconds come from.
        bytes: peak of one run on the training device, beside what the process holds anyway.
    """

    label: str
    runs: int
    left: int
    seconds: float
    source: Literal["stored", "timed"]
    bytes: int


def predict(runs: Sequence[Run], root: Path) -> Iterator[Prediction]:
    """A prediction for every row of the plan; opens the data, writes nothing."""
    rows: dict[str, list[Run]] = {}
    for run in runs:
        rows.setdefault(run.label, []).append(run)
    data: tuple[TrainConfig, Activations] | None = None
    timed: dict[str, tuple[float, int]] = {}
    for label, group in rows.items():
        config = group[0].config
        results = [f for r in group if (f := result_of(root, r.hash)) is not None]
        stored = [s for f in results if (s := finite(f.get("seconds"))) is not None]
        key = config_hash(config)
        if key not in timed:
            beside = replace(config, pairs=TrainConfig().pairs, penalty=TrainConfig().penalty,
                             history=TrainConfig().history, sae=TrainConfig().sae)  # fmt: skip
            if data is None or data[0] != beside:
                language = data[1].language if data and _same_language(data[0], beside) else None
                device = str(hardware.choose_device(config.device))
                data = beside, prepare(config, device=device, language=language)
            seconds = 0.0 if stored else time_steps(config, data[1])
            timed[key] = seconds, _peak(config, data[1])
        seconds, peak = timed[key]
        yield Prediction(
            label,
            len(group),
            len(group) - len(results),
            statistics.median(stored) if stored else seconds * config.steps,
            "stored" if stored else "timed",
            peak,
        )


def time_steps(config: TrainConfig, data: Activations) -> float:
    """Seconds of one training step, the median of a few after the first."""
    device = hardware.choose_device(config.device)
    rows = config.batch_size * (WARM_STEPS + TIMED_STEPS)
    small = replace(config, buffer_rows=min(config.buffer_rows, rows))
    before = torch.get_num_threads()
    torch.set_num_threads(hardware.choose_threads(config, data.source.d_in))
    state = TrainState.fresh(small, data, device)
    taken = []
    try:
        for _ in range(WARM_STEPS + TIMED_STEPS):
            started = time.perf_counter()
            x, target = state.buffer.next_batch()
            train_step(state, x.to(device), None if target is None else target.to(device))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
        if state.constraint is not None:
            state.constraint.close()
    return statistics.median(taken[WARM_STEPS:])


def _same_language(a: TrainConfig, b: TrainConfig) -> bool:
    return all(
        getattr(a, name) == getattr(b, name)
        for name in (
            *("activations", "model", "text", "dataset", "hook", "hook_out", "context"),
            *("backend", "dtype", "attn", "model_device", "device_map"),
        )
    )


def _peak(config: TrainConfig, data: Activations) -> int:
    device = hardware.choose_device(config.device)
    kept = cached_blocks(data.language)
    place, _ = places(device)[0]
    d_in = data.source.d_in
    expected = forecast(
        config, d_in=d_in, d_out=data.d_out, device=device.type, cached=kept, loaded=LOADED
    )
    return expected.peak(place)


def predicted(predictions: Sequence[Prediction], *, jobs: int) -> str:
    """The plan as a table, and what it comes to."""
    table = comparison_table(
        [
            (p.label, {"runs": p.runs, "to do": p.left, "seconds": p.seconds, "from": p.source,
                       "memory": readable(p.bytes)})
            for p in predictions
        ],
        ["runs", "to do", "seconds", "from", "memory"],
    )  # fmt: skip
    total = sum(p.left * p.seconds for p in predictions)
    largest = sorted((p.bytes for p in predictions if p.left), reverse=True)[:jobs]
    return (
        f"{table}\n\n"
        f"seconds: one run's training steps; stored: from a finished run, timed: {TIMED_STEPS} "
        f"steps were tried just now, {WARM_STEPS} more before them. Measuring at the end and "
        "harvesting a language model come on top.\n"
        f"to do: {sum(p.left for p in predictions)} runs, {_duration(total / jobs)} with "
        f"--jobs {jobs}"
        + (" if the jobs do not slow each other down" if jobs > 1 else "")
        + f"; memory at the peak {readable(sum(largest))}, beside what each process holds anyway."
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
