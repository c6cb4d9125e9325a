"""Differences of two arms over paired seeds, with Student's t intervals.

The intervals assume that the differences are roughly normal; a bootstrap over five or ten seeds
would be too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONFIDENCE = 0.95

Values = Mapping[Any, float | None]
"""A metric of one arm by seed."""


@dataclass(frozen=True)
class Mean:
    """One arm alone, for plots.

    Attributes:
        mean: over `n` seeds.
        low, high: Student's t interval, None with one seed.
        n: seeds with a value.
        missing: seeds without one.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    missing: int


@dataclass(frozen=True)
class Difference:
    """arm - control, paired by seed.

    Attributes:
        mean: of the differences.
        low, high: two-sided Student's t interval.
        p: two-sided, of a mean of 0.
        n: pairs.
        missing: seeds of either arm that make no pair.
        confidence: of the interval.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int
    missing: int
    confidence: float

    @property
    def detectable(self) -> bool:
        """Returns whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def finite(value: Any) -> float | None:
    """Returns a finite number unchanged, None for anything else: a metric that is unavailable."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of more digits than a float takes
        return None


def known(values: Values) -> dict[Any, float]:
    """Returns the seeds with a finite number."""
    found = {seed: finite(value) for seed, value in values.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def mean_of_all(values: Iterable[Any]) -> float | None:
    """Returns the mean of numbers; None where one of them is unavailable, or without any."""
    numbers = [finite(value) for value in values]
    there = [value for value in numbers if value is not None]
    return sum(there) / len(there) if there and len(there) == len(numbers) else None


def mean(values: Values, *, confidence: float = CONFIDENCE) -> Mean | None:
    """Returns the mean of one arm with a Student's t interval; None without any value.

    Raises:
        ValueError: a confidence outside (0, 1).
    """
    check(confidence)
    there = list(known(values).values())
    missing = len(values) - len(there)
    if not there:
        return None
    centre, error = centre_of(there)
    if error is None:
        return Mean(centre, None, None, 1, missing)
    half = quantile(len(there), (1 + confidence) / 2) * error
    return Mean(centre, centre - half, centre + half, len(there), missing)


def paired(arm: Values, control: Values, *, confidence: float = CONFIDENCE) -> Difference | None:
    """arm - control with its interval and p; None with fewer than two pairs.

    Differences that are all the same have an interval of no width: p is 1 where they are 0, else 0.

    Raises:
        ValueError: a confidence outside (0, 1).
    """
    check(confidence)
    pairs, missing = pairs_of(arm, control)
    centre, error = centre_of([a - c for a, c in pairs])
    if error is None:
        return None
    half = quantile(len(pairs), (1 + confidence) / 2) * error
    p = 2 * tail(abs(centre), error, len(pairs))
    return Difference(
        mean=centre,
        low=centre - half,
        high=centre + half,
        p=min(1.0, p),
        n=len(pairs),
        missing=missing,
        confidence=confidence,
    )


def check(confidence: float) -> None:
    """Refuse a confidence outside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, but a number between 0 and 1 was expected")


def pairs_of(arm: Values, control: Values) -> tuple[list[tuple[float, float]], int]:
    """Metrics of the seeds that both have, in the control's order, and how many seeds are left."""
    ours, theirs = known(arm), known(control)
    pairs = [(ours[seed], value) for seed, value in theirs.items() if seed in ours]
    return pairs, len(arm.keys() | control.keys()) - len(pairs)


def centre_of(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error, None for the latter with fewer than two values."""
    if not values:
        return 0.0, None
    try:
        centre = math.fsum(values) / len(values)
    except OverflowError:
        return 0.0, None
    if len(values) < 2:
        return centre, None
    return centre, math.sqrt(covariance(values, values) / len(values))


def covariance(a: Sequence[float], b: Sequence[float]) -> float:
    """Sample covariance; exactly 0 where one does not vary."""
    if min(a) == max(a) or min(b) == max(b):
        return 0.0
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    products = ((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return math.fsum(products) / (len(a) - 1)


def quantile(n: int, probability: float) -> float:
    """Of Student's t with n - 1 degrees of freedom."""
    from scipy.special import stdtrit  # slow to load, and a report may do without it

    return float(stdtrit(n - 1, probability))


def tail(distance: float, error: float, n: int) -> float:
    """P(t >= distance / error); without any scatter the distance alone decides."""
    if error == 0:
        return 0.5 if distance == 0 else float(distance < 0)
    from scipy.special import stdtr

    return float(stdtr(n - 1, -distance / error))
