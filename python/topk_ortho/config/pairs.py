"""The choice of pairs: options and their rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from topk_ortho.config.errors import require
from topk_ortho.config.option import (
    ABOVE_0,
    FEATURES,
    SHARE_ABOVE_0,
    STEPS_FROM_1,
    When,
    option,
    unless,
    whole,
)
from topk_ortho.config.registry import CRITERIA, OneOf
from topk_ortho.config.settings import Settings

CriterionName = Annotated[str, OneOf(CRITERIA, besides=("none",))]

DEFAULT_CRITERION = "row-coactivation"
DEFAULT_PER_FEATURE = 2.5
_CONSTRAINED = unless("pairs.criterion", "none")
_SUPPORTED = When("pairs.criterion", lambda: [c.name for c in CRITERIA if c.supported])
_LISTED = When("pairs.criterion", lambda: [c.name for c in CRITERIA if c.listed])
_GROWING = unless("pairs.schedule", "constant")


@dataclass(frozen=True, repr=False)
class PairsConfig(Settings):
    """The choice of pairs."""

    criterion: CriterionName = DEFAULT_CRITERION
    """Score of a pair (`docs/method.md`); `none` trains without the constraint."""
    per_feature: float | None = option(None, within=ABOVE_0, used=_CONSTRAINED)
    """k as a multiple of `d_sae` (2.5 unless `fraction` is given)."""
    fraction: float | None = option(None, within=SHARE_ABOVE_0, used=_CONSTRAINED)
    """k as a share of the pairs that `fraction_of` counts."""
    fraction_of: Literal["all", "active"] = option("all", used=_CONSTRAINED)
    """`fraction` is of all pairs, or of those with a positive score."""
    schedule: Literal["constant", "linear", "exponential"] = option("constant", used=_CONSTRAINED)
    """Growth of `fraction` to `final_fraction`."""
    final_fraction: float | None = option(None, within=SHARE_ABOVE_0, used=_GROWING)
    """Value of `fraction` at the end of the schedule."""
    schedule_steps: int | None = option(None, within=STEPS_FROM_1, used=_GROWING)
    """Length of the schedule in steps; the run's length unless given."""
    max_pairs: int | None = option(
        None,
        within=whole(1, 2**40, "a selection needs at least 1 pair, and 1 to 2^40",
                     fix="raise it, or leave it out"),
        used=_CONSTRAINED,
    )  # fmt: skip
    """An upper limit on k."""
    given: tuple[int, ...] | None = option(None, within=FEATURES, used=_LISTED)
    """`given`: the pairs, one feature after the other: `3 17 5 9` is (3, 17) and (5, 9)."""
    min_support: int = option(8, within=FEATURES, used=_SUPPORTED)
    """`coactivation-cosine`, `correlation`, `conditional`: a pair whose rarer feature fired less
    often in the batch is no candidate."""
    memory_budget: int = option(
        256 * 2**20,
        within=whole(2**20, 2**50, "at least 1048576 bytes (1 MiB), and at most 2^50,",
                     fix="the default is 268435456"),
        used=_CONSTRAINED,
    )  # fmt: skip
    """Bytes that one selection may use for its temporaries."""
    track_memory: bool = option(False, used=_CONSTRAINED)
    """Log how much memory each function held in a selection, as `selection_temporaries`."""


def check_pairs(c: PairsConfig) -> None:
    """Refuse a choice of pairs that contradicts itself.

    Raises:
        ConfigError: the settings contradict each other.
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
    if c.fraction_of == "active":
        require(
            c.fraction is not None,
            "--pairs.fraction-of active was given",
            "it says what --pairs.fraction is a share of",
            "give --pairs.fraction too",
        )


def check_criterion(c: PairsConfig, d_sae: int | None) -> None:
    """Refuse options that a criterion decides itself, and dictionaries too small for it.

    Args:
        c: the settings.
        d_sae: number of features, where it is known.

    Raises:
        ConfigError: an option or a dictionary that does not suit the criterion.
    """
    if c.criterion == "none":
        return
    criterion = CRITERIA[c.criterion]
    for name in ("fraction", "per-feature", "max-pairs"):
        size = getattr(c, name.replace("-", "_"))
        require(
            size is None or not criterion.own_size,
            f"--pairs.{name} {size} was given with --pairs.criterion {c.criterion}",
            "it decides by itself how many pairs it takes",
            "leave it out",
        )
    if criterion.listed:
        _check_given(c, d_sae)
    require(
        d_sae is None or d_sae >= criterion.least_features,
        f"--sae.d-sae {d_sae} was given with --pairs.criterion {c.criterion}",
        f"it chooses among at least {criterion.least_features} features",
        f"give --sae.d-sae {criterion.least_features} or more",
    )


def _check_given(c: PairsConfig, d_sae: int | None) -> None:
    given = c.given or ()
    require(
        len(given) > 0 and len(given) % 2 == 0,
        f"--pairs.criterion {c.criterion} and {len(given)} features in --pairs.given were given",
        "it penalises the pairs of that list, one feature after the other",
        "give two features for each pair",
    )
    for i, j in zip(given[::2], given[1::2], strict=True):
        require(
            i != j,
            f"--pairs.given has the pair ({i}, {j})",
            "a pair is of two features",
            "leave it out",
        )
        require(
            d_sae is None or max(i, j) < d_sae,
            f"--pairs.given has the pair ({i}, {j})",
            f"the features are numbered from 0 to {(d_sae or 0) - 1}",
            "give the pairs of this SAE",
        )
