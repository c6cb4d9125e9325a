"""The penalty of a pair: options and their rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from topk_ortho.config.errors import require
from topk_ortho.config.option import (
    ABOVE_0,
    COSINE,
    FROM_0,
    STEPS_FROM_1,
    Range,
    option,
    unless,
    when,
)
from topk_ortho.config.pairs import PairsConfig
from topk_ortho.config.registry import CRITERIA
from topk_ortho.config.settings import Settings

_PULLS = unless("penalty.coefficient", 0)

PairWeight = Literal["one", "activity", "activity-detached"]
Tau = Literal["fixed", "mean-std", "mean-std-all", "strength", "strength-threshold", "stability"]


@dataclass(frozen=True, repr=False)
class PenaltyConfig(Settings):
    """The penalty on the chosen pairs."""

    coefficient: float | None = option(None, within=FROM_0)
    """Coefficient of the penalty; the criterion's own unless given (2 for the default)."""
    units: Literal["variance", "absolute"] = option("variance", used=_PULLS)
    """`variance`: the coefficient is in units of the data's total variance."""
    normalize_by: Literal["d-sae", "k"] = "d-sae"
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
    gradient: Literal["child-only", "symmetric"] = option("child-only", used=_PULLS)
    """Which rows move: the rarer feature's, or both."""
    pair_weight: PairWeight | None = option(None, used=_PULLS)
    """Factor of a pair's term: `one`; `activity`, the norms of both features' activations over the
    batch, added up, whose gradient reaches the activations too; `activity-detached`, the same
    without that gradient. The criterion's own unless given (`activity` for `c2r`)."""
    activity_exponent: float | None = option(None, within=ABOVE_0, used=_PULLS)
    """Exponent of that sum of norms (1 unless given)."""
    ramp: float = option(
        0.05,
        within=Range(0, 1, "a share of the steps in [0, 1]", "try the default, 0.05"),
        used=_PULLS,
    )
    """Share of the steps over which the coefficient rises linearly from 0."""
    every_n: int = option(1, within=STEPS_FROM_1)
    """Apply on every n-th step, n times as strongly."""
    refresh_every: int = option(1, within=STEPS_FROM_1)
    """Select on every n-th step and keep the pairs in between."""


def coefficient(pairs: PairsConfig, penalty: PenaltyConfig) -> float:
    """Returns the coefficient of a penalty, the criterion's own unless it was given."""
    if pairs.criterion == "none":
        return 0.0
    if penalty.coefficient is not None:
        return penalty.coefficient
    return CRITERIA[pairs.criterion].coefficient


def pair_weight(pairs: PairsConfig, penalty: PenaltyConfig) -> PairWeight:
    """Returns what a pair's term is multiplied by, the criterion's own unless it was given."""
    if pairs.criterion == "none":
        return "one"
    return penalty.pair_weight or CRITERIA[pairs.criterion].pair_weight


def check_pair_weight(pairs: PairsConfig, penalty: PenaltyConfig) -> None:
    """Refuse an exponent of norms where no pair is weighed by them.

    Raises:
        ConfigError: the exponent has no effect.
    """
    require(
        penalty.activity_exponent is None or pair_weight(pairs, penalty) != "one",
        f"--penalty.activity-exponent {penalty.activity_exponent} was given with --pairs.criterion "
        f"{pairs.criterion}",
        "its pairs are not weighed by how active their features are",
        "leave it out, or give --penalty.pair-weight activity too",
    )
