"""What a pair costs: options and their rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from topk_ortho.config.option import COSINE, FROM_0, STEPS_FROM_1, Range, option, when

Tau = Literal["fixed", "mean-std", "mean-std-all", "strength", "strength-threshold", "stability"]

COEFFICIENTS = {"coactivation": 2.0, "random": 1.0, "random-matched": 1.0, "ortsae": 0.1}
OTHER_COEFFICIENT = 0.2


@dataclass(frozen=True)
class PenaltyConfig:
    """What a pair costs."""

    coefficient: float | None = option(None, within=FROM_0)
    """Weight of the penalty; by criterion unless given: `coactivation` 2, `random` and
    `random-matched` 1, `ortsae` 0.1, others 0.2."""
    units: Literal["variance", "absolute"] = "variance"
    """`variance`: the coefficient counts in total variances of the data."""
    n: Literal["d-sae", "k"] = "d-sae"
    """The sum over pairs is divided by the number of features, or of pairs."""
    tau: Tau = "fixed"
    """Threshold policy."""
    threshold: float = option(
        0.05,
        within=COSINE,
        used=when("penalty.tau", "fixed", "stability", "strength-threshold"),
    )
    """τ of `fixed` and `stability`, τ0 of `strength-threshold` (cosine)."""
    sign: Literal["positive", "both"] = "positive"
    """`positive`: only a positive cosine is overlap; `both`: its absolute value."""
    gradient: Literal["child-only", "symmetric"] = "child-only"
    """Which rows move: the rarer feature's, or both."""
    ramp: float = option(
        0.05, within=Range(0, 1, "a share of the steps in [0, 1]", "try the default, 0.05")
    )
    """Share of the steps over which the coefficient rises linearly from 0."""
    every_n: int = option(1, within=STEPS_FROM_1)
    """Apply on every n-th step, n times as strong."""
    refresh_every: int = option(1, within=STEPS_FROM_1)
    """Select on every n-th step and keep the pairs in between."""
