"""Schedules: pure functions of the step."""

from __future__ import annotations

import math


def learning_rate(
    step: int, *, peak: float, steps: int, warmup_steps: int, decay_fraction: float
) -> float:
    """Returns a factor: linear warm-up from step 0, constant, linear decay over the last share."""
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    decay_steps = decay_fraction * steps
    decay = min(1.0, (steps - step) / decay_steps) if decay_steps else 1.0
    return peak * warmup * decay


def ramp(step: int, *, steps: int, share: float) -> float:
    """Returns a factor that rises linearly from 0 to 1 over the first `share` of the steps."""
    ramp_steps = share * steps
    return min(1.0, step / ramp_steps) if ramp_steps else 1.0


def fraction(step: int, *, kind: str, start: float, end: float | None, steps: int) -> float:
    """Returns the share of the pairs at a step (method 2), with `u = min(1, step / steps)`."""
    if kind == "constant" or end is None:
        return start
    u = min(1.0, step / steps)
    if kind == "linear":
        return start + (end - start) * u
    return start + (end - start) * -math.expm1(-5.0 * u)
