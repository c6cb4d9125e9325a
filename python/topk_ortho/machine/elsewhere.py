"""What a run would need on a GPU that is not in this machine: memory and time, from sizes alone.

No data and no model are opened, so the width of the activations has to be given. The memory is
that of `training/memory.py`; the time is derived and not measured: the dense products of a step at
half of what the data sheet promises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from topk_ortho.config import TrainConfig
from topk_ortho.machine.forecast import Forecast, readable
from topk_ortho.terminal import aligned
from topk_ortho.training.memory import forecast

REACHED = 0.5
"""Share of a data sheet's rate that large products are taken to reach."""
PRODUCTS = 5
"""Dense products of a step: encoding, decoding, and the gradients of codes and both matrices."""
GB = 10**9


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet.

    Attributes:
        name: in words.
        memory: bytes.
        rate: float32 operations a second, without tensor cores, as the trainer computes.
        source: the data sheet.
    """

    name: str
    memory: int
    rate: float
    source: str


NVIDIA = "https://www.nvidia.com/en-us"
GPUS = {
    "a100": Gpu("NVIDIA A100 80GB", 80 * GB, 19.5e12, f"{NVIDIA}/data-center/a100/"),
    "h100": Gpu("NVIDIA H100 SXM 80GB", 80 * GB, 67e12, f"{NVIDIA}/data-center/h100/"),
    "h200": Gpu("NVIDIA H200 SXM 141GB", 141 * GB, 67e12, f"{NVIDIA}/data-center/h200/"),
    "l40s": Gpu("NVIDIA L40S 48GB", 48 * GB, 91.6e12, f"{NVIDIA}/data-center/l40s/"),
    "rtx-4090": Gpu("NVIDIA GeForce RTX 4090 24GB", 24 * GB, 82.6e12,
                    f"{NVIDIA}/geforce/graphics-cards/40-series/rtx-4090/"),
}  # fmt: skip


def predict(config: TrainConfig, *, d_in: int, gpu: str) -> tuple[str, bool]:
    """Returns a report on a configuration, and whether the run should fit.

    Args:
        config: what would be trained.
        d_in: width of the activations.
        gpu: of `GPUS`.
    """
    on = GPUS[gpu]
    expected = forecast(config, d_in=d_in, device="cuda", cached=0)
    fits = expected.peak("device") <= on.memory
    lines = [
        f"on one {on.name} ({on.source}); nothing was opened or measured",
        f"data: d_in {d_in}; d_sae {config.sae.d_sae}, batch {config.batch_size}, "
        f"{config.steps} steps",
        "",
        *_memory(expected, on),
        "",
        *_time(config, d_in, on),
    ]
    if not fits:
        lines += ["", f"problem: the peak is above the {readable(on.memory)} of that GPU; lower "
                      "--sae.d-sae or --batch-size."]  # fmt: skip
    return "\n".join(lines), fits


def _memory(expected: Forecast, on: Gpu) -> Iterator[str]:
    parts = [(part.name, readable(part.bytes), part.setting) for part in
             expected.at_peak("device")]  # fmt: skip
    rows = [*parts, ("peak", readable(expected.peak("device")), ""),
            ("that GPU has", readable(on.memory), "")]  # fmt: skip
    yield f"memory on the GPU, at its peak, in {expected.moment('device')}"
    yield from aligned(rows, sides="<><", rule=False, indent=2)
    yield (
        f"  and {readable(expected.peak('host'))} on the host. A language model on the same GPU "
        "comes on top: two bytes a weight in bfloat16, and the activations of a pass."
    )


def _time(config: TrainConfig, d_in: int, on: Gpu) -> Iterator[str]:
    operations = 2 * PRODUCTS * config.batch_size * d_in * config.sae.d_sae
    seconds = operations / (REACHED * on.rate)
    yield (
        f"steps: {hours(config.steps * seconds)}, derived and not measured: {PRODUCTS} dense "
        f"products of {config.batch_size} x {d_in} x {config.sae.d_sae} take {1000 * seconds:.1f} "
        f"ms at {REACHED:.0%} of {on.rate / 1e12:g} TFLOP/s; the language model comes on top."
    )


def hours(seconds: float) -> str:
    """Returns a time as `3.2 hours` or `12 minutes`."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{max(seconds, 60) / 60:.0f} minutes"
