"""Ratios of two arms over paired seeds, with Fieller's intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from topk_ortho.statistics.differences import (
    CONFIDENCE,
    Difference,
    Values,
    covariance,
    paired,
    pairs_of,
    quantile,
)

L0_TOLERANCE = 0.03
"""Arms count as matched when their L0 differ by less than this share."""


def relative_change(
    arm: Values, control: Values, *, confidence: float = CONFIDENCE
) -> Difference | None:
    """Returns mean(arm) / mean(control) - 1 with Fieller's interval, paired by seed.

    Fieller's interval is the set of ratios r that a paired t test of `arm - r * control` does not
    reject, so it leaves out 0 exactly where `paired` does, and has the same p (Fieller 1954; the
    delta method is its limit for a precise control).

    None with fewer than two pairs, and where the control's mean is not clearly above 0 (its own
    interval reaches 0), since then no bounded interval exists: a share of nothing means nothing.

    Raises:
        ValueError: a confidence outside (0, 1).
    """
    difference = paired(arm, control, confidence=confidence)
    if difference is None:
        return None
    pairs, _ = pairs_of(arm, control)
    interval = _fieller(pairs, quantile(len(pairs), (1 + confidence) / 2))
    if interval is None:
        return None
    ratio, low, high = interval
    return replace(difference, mean=ratio - 1, low=low - 1, high=high - 1)


def relative_reduction(
    arm: Values, control: Values, *, confidence: float = CONFIDENCE
) -> Difference | None:
    """Returns 1 - mean(arm) / mean(control), `relative_change` with its sign turned."""
    change = relative_change(arm, control, confidence=confidence)
    return None if change is None else _negative(change)


def l0_matched(arm: Values, control: Values) -> bool | None:
    """Returns whether mean L0 over the common seeds differs by less than 3 % of the control's."""
    pairs, _ = pairs_of(arm, control)
    ours, theirs = (math.fsum(column) for column in zip(*pairs, strict=True)) if pairs else (0, 0)
    return abs(ours / theirs - 1) < L0_TOLERANCE if theirs > 0 else None


def _fieller(
    pairs: Sequence[tuple[float, float]], quantile: float
) -> tuple[float, float, float] | None:
    """Returns the ratio of the means and its interval; None without a bounded one."""
    arm, control = (list(column) for column in zip(*pairs, strict=True))
    n, a, c = len(pairs), math.fsum(arm) / len(arm), math.fsum(control) / len(control)
    scale = quantile**2 / n
    # (a - r c)^2 <= t^2 var(a - r c) / n, a quadratic in r: square r^2 - 2 middle r + rest <= 0
    square = c * c - scale * covariance(control, control)
    middle = a * c - scale * covariance(arm, control)
    rest = a * a - scale * covariance(arm, arm)
    if c <= 0 or square <= 0:
        return None
    half = math.sqrt(max(0.0, middle * middle - square * rest)) / square
    return a / c, middle / square - half, middle / square + half


def _negative(change: Difference) -> Difference:
    return replace(change, mean=-change.mean, low=-change.high, high=-change.low)
