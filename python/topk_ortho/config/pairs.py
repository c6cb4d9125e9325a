"""Which pairs: options and their rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from topk_ortho.config.error import require
from topk_ortho.config.option import (
    ABOVE_0,
    FEATURES,
    SHARE_ABOVE_0,
    STEPS_FROM_1,
    option,
    unless,
    when,
    whole,
)

Criterion = Literal[
    "none",
    "coactivation",
    "coactivation-cosine",
    "correlation",
    "conditional",
    "gradient",
    "gradient-accumulated",
    "gradient-batchwise",
    "magnitude",
    "decoder-cosine",
    "coactive-cosine",
    "decoder-projection",
    "suppressed",
    "sign-discrepancy",
    "preactivation",
    "random",
    "random-matched",
    "ortsae",
]

DEFAULT_PER_FEATURE = 2.5
_CONSTRAINED = unless("pairs.criterion", "none")
_GROWING = unless("pairs.schedule", "constant")


@dataclass(frozen=True)
class PairsConfig:
    """Which pairs."""

    criterion: Criterion = "coactivation"
    """Score of a pair; `none` trains without the constraint."""
    per_feature: float | None = option(None, within=ABOVE_0, used=_CONSTRAINED)
    """k as a multiple of `d_sae` (2.5 unless `fraction` is given)."""
    fraction: float | None = option(None, within=SHARE_ABOVE_0, used=_CONSTRAINED)
    """k as a share of the pairs counted by `of`."""
    of: Literal["all", "active"] = option("all", used=_CONSTRAINED)
    """`fraction` is of all pairs, or of those with a positive score."""
    schedule: Literal["constant", "linear", "exponential"] = option("constant", used=_CONSTRAINED)
    """How `fraction` grows to `final_fraction`."""
    final_fraction: float | None = option(None, within=SHARE_ABOVE_0, used=_GROWING)
    """Where the schedule ends."""
    schedule_steps: int | None = option(None, within=STEPS_FROM_1, used=_GROWING)
    """Length of the schedule in steps; the run's length unless given."""
    max_pairs: int | None = option(
        None,
        within=whole(1, 2**40, "a selection needs at least 1 pair, and 1 to 2^40",
                     fix="raise it, or leave it out"),
        used=_CONSTRAINED,
    )  # fmt: skip
    """An upper limit on k."""
    min_support: int = option(8, within=FEATURES, used=when("pairs.criterion", "correlation"))
    """`correlation`: a pair whose rarer feature fired less often in the batch is no candidate."""
    memory_budget: int = option(
        256 * 2**20,
        within=whole(2**20, 2**50, "at least 1048576 bytes (1 MiB), and at most 2^50,",
                     fix="the default is 268435456"),
        used=_CONSTRAINED,
    )  # fmt: skip
    """Bytes that one selection may use for its temporaries."""
    account: bool = option(False, used=_CONSTRAINED)
    """Log who held how much memory in a selection (`selection_temporaries`), once per log line."""


def check_pairs(c: PairsConfig) -> None:
    """Refuse a choice of pairs that contradicts itself.

    Raises:
        ConfigError: so it does.
    """
    require(
        c.fraction is None or c.per_feature is None,
        f"--pairs.fraction {c.fraction} and --pairs.per-feature {c.per_feature} were both given",
        "they say the same thing, k, in two ways",
        "leave one of them out",
    )
    if c.schedule != "constant":
        require(
            c.fraction is not None and c.final_fraction is not None,
            f"--pairs.schedule {c.schedule} was given",
            "it needs --pairs.fraction and --pairs.final-fraction",
            "give both, such as 0.001 and 0.005",
        )
    if c.of == "active":
        require(
            c.fraction is not None,
            "--pairs.of active was given",
            "it says what --pairs.fraction is a share of",
            "give --pairs.fraction too",
        )
