"""Claims about differences: margins, corrections for several comparisons, verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from topk_ortho.statistics.differences import (
    CONFIDENCE,
    Difference,
    Values,
    centre_of,
    check,
    finite,
    mean_of_all,
    pairs_of,
    quantile,
    tail,
)

MARGIN_EXPLAINED_VARIANCE = 0.003
"""Explained variance that an arm may lose and still count as not inferior."""

Better = Literal["lower", "higher"]
Verdict = Literal["better", "worse", "no detectable change", "nothing to remove", "unavailable"]
Holds = Literal["holds", "does not hold", "unavailable"]


@dataclass(frozen=True)
class NonInferiority:
    """A one-sided test of whether an arm is at most `margin` worse than the control.

    Attributes:
        verdict: `holds` where the bound lies within the margin.
        margin: in the metric's own units, above 0.
        loss: mean loss, positive where the arm is worse; None where unavailable, as what follows.
        bound: the one-sided upper confidence bound of the loss.
        p: of a loss of `margin` or more.
        n: pairs.
        confidence: of the bound.
    """

    verdict: Holds
    margin: float
    loss: float | None
    bound: float | None
    p: float | None
    n: int
    confidence: float


def non_inferior(
    arm: Values,
    control: Values,
    *,
    margin: float,
    better: Better = "higher",
    confidence: float = CONFIDENCE,
) -> NonInferiority:
    """Returns a one-sided paired t test of "the arm is at most `margin` worse".

    It holds where the upper bound of the loss lies below the margin. Not holding is no proof of a
    loss: with few or scattered seeds the bound is wide.

    Args:
        arm, control: a metric by seed.
        margin: the loss that would be accepted, in the metric's units.
        better: whether higher or lower is better.
        confidence: of the one-sided bound.

    Raises:
        ValueError: a margin that is not above 0, a confidence outside (0, 1).
    """
    check(confidence)
    if not margin > 0:
        raise ValueError(f"margin is {margin}, but a loss above 0 was expected")
    pairs, _ = pairs_of(arm, control)
    sign = 1 if better == "lower" else -1
    loss, error = centre_of([sign * (a - c) for a, c in pairs])
    if error is None:
        return NonInferiority("unavailable", margin, None, None, None, len(pairs), confidence)
    bound = loss + quantile(len(pairs), confidence) * error
    p = tail(margin - loss, error, len(pairs))
    verdict: Holds = "holds" if bound < margin else "does not hold"
    return NonInferiority(verdict, margin, loss, bound, p, len(pairs), confidence)


def holm(p: Mapping[str, float | None]) -> dict[str, float | None]:
    """Returns Holm's adjusted p of every comparison of one family (Holm 1979).

    Args:
        p: by name; None for a comparison that was not available, which stays None and does not
            count, since nothing can be claimed from it.

    Raises:
        ValueError: a p outside [0, 1].
    """
    tested = sorted((value, name) for name, value in p.items() if value is not None)
    for value, name in tested:
        if not 0 <= value <= 1:
            raise ValueError(f"p of {name} is {value}, but a number from 0 to 1 was expected")
    adjusted: dict[str, float | None] = dict.fromkeys(p)
    largest = 0.0
    for rank, (value, name) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * value))
        adjusted[name] = largest
    return adjusted


def verdict(
    difference: Difference | None,
    *,
    better: Better,
    adjusted_p: float | None = None,
    control: Values | None = None,
) -> Verdict:
    """Returns what may be said of a difference.

    "no detectable change" whenever its interval covers 0, or the p that was corrected for several
    comparisons is not below 1 - confidence. That is not "no loss": only `non_inferior` says that
    an arm loses at most its margin.

    Args:
        difference: of the arm and its control; None where it is unavailable.
        better: whether higher or lower is better.
        adjusted_p: of the difference, after a correction for several comparisons.
        control: the control's values, given for a metric of which nothing is left at 0, such as
            the excess: where their mean is 0 or below, going further down is "nothing to remove".
    """
    if difference is None:
        return "unavailable"
    level = 1 - difference.confidence
    if not difference.detectable or (adjusted_p is not None and not adjusted_p < level):
        return "no detectable change"
    improved = (difference.mean < 0) == (better == "lower")
    level_before = None if control is None else mean_of_all(finite(v) for v in control.values())
    if improved and level_before is not None and level_before <= 0:
        return "nothing to remove"
    return "better" if improved else "worse"


def reduction_per_percent(
    absorption: Difference | None, step_time: Difference | None
) -> float | None:
    """Returns the absolute reduction of absorption for each per cent of step time added.

    Args:
        absorption: `paired` of the absorption rates.
        step_time: `relative_change` of the step times.

    Returns:
        None where either is unavailable or the added time is not detectable: dividing by a cost
        that may be 0 gives any number.
    """
    if absorption is None or step_time is None or not step_time.low > 0:
        return None
    return -absorption.mean / (100 * step_time.mean)
