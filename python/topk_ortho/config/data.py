"""Data with known directions: the synthetic forest, and hierarchies planted in any activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from topk_ortho.config.option import (
    ABOVE_0,
    COSINE,
    FEATURES,
    FEATURES_FROM_1,
    FROM_0,
    RATE,
    SEED,
    SHARE,
    option,
    when,
    whole,
)
from topk_ortho.config.settings import Settings

_PLANTED = when("plant.enabled", True)


@dataclass(frozen=True, repr=False)
class SyntheticConfig(Settings):
    """Forest data with known directions; a number left out comes from the preset."""

    preset: Literal["forest-240", "forest-256"] = "forest-240"
    """Forest of `docs/method.md` that the options below default to."""
    d_in: int | None = option(None, within=whole(1, 2**20))
    """Dimensions of an activation."""
    roots: int | None = option(None, within=FEATURES)
    """Parent features."""
    children: int | None = option(None, within=FEATURES)
    """Exclusive children of each root."""
    independent: int | None = option(None, within=FEATURES)
    """Features outside any hierarchy."""
    root_rate_high: float | None = option(None, within=RATE)
    """Firing rate of the most frequent root."""
    root_rate_low: float | None = option(None, within=RATE)
    """Firing rate of the rarest root."""
    independent_rate_high: float | None = option(None, within=RATE)
    """Firing rate of the most frequent independent feature."""
    independent_rate_low: float | None = option(None, within=RATE)
    """Firing rate of the rarest independent feature."""
    child_probability: float | None = option(None, within=SHARE)
    """P(some child on | parent on)."""
    sibling_exponent: float | None = option(None, within=FROM_0)
    """The r-th sibling is weighted r^-exponent."""
    parent_child_cosine: float | None = option(None, within=COSINE)
    """Cosine between a child's direction and its parent's."""
    magnitude_mean: float | None = option(None, within=FROM_0)
    """Mean of a feature's magnitude |N(mean, std)|."""
    magnitude_std: float | None = option(None, within=FROM_0)
    """Standard deviation of a feature's magnitude."""
    noise: float | None = option(None, within=FROM_0)
    """Standard deviation of the noise, per dimension."""
    directions_seed: int | None = option(None, within=SEED)
    """Seed of the true directions; the run's seed unless given."""


@dataclass(frozen=True, repr=False)
class PlantConfig(Settings):
    """Known hierarchies added on top of any activations, which gives ground truth on real ones."""

    enabled: bool = False
    """Plant known hierarchies; `--plant` for short, and implied by any other `plant` option."""
    roots: int = option(8, within=FEATURES_FROM_1, used=_PLANTED)
    """Planted parent features."""
    children: int = option(4, within=FEATURES, used=_PLANTED)
    """Exclusive children of each."""
    rate_high: float = option(0.4, within=RATE, used=_PLANTED)
    """Firing rate of the most frequent root."""
    rate_low: float = option(0.1, within=RATE, used=_PLANTED)
    """Firing rate of the rarest root."""
    child_probability: float = option(0.8, within=SHARE, used=_PLANTED)
    """P(some child on | parent on)."""
    sibling_exponent: float = option(0.5, within=FROM_0, used=_PLANTED)
    """The r-th sibling is weighted r^-exponent."""
    magnitude: float = option(0.447, within=ABOVE_0, used=_PLANTED)
    """Mean magnitude, in units of the square root of the data's total variance before planting."""
    magnitude_std: float = option(0.25, within=FROM_0, used=_PLANTED)
    """Standard deviation of the magnitude, as a share of its mean."""
    parent_child_cosine: float = option(0.0, within=COSINE, used=_PLANTED)
    """Cosine between a child's direction and its parent's."""
    seed: int | None = option(None, within=SEED, used=_PLANTED)
    """Seed of directions and firing; the run's seed unless given."""
