"""Each arm against the arm without the constraint: what it removed, and at what cost.

Differences are paired by seed (`topk_ortho.statistics`). Absorption of an SAE that is not healthy
counts as unavailable, since an SAE that hardly trained scores near 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from topk_ortho import statistics
from topk_ortho.metrics.health import health, is_absorption
from topk_ortho.report.arms import Arm, Comparison
from topk_ortho.report.reading import Run

COSTS = ("mcc", "f1_child", "explained_variance")
"""Metrics that are read beside the reduction; higher is better."""


@dataclass(frozen=True)
class Row:
    """One arm against its control.

    Attributes:
        control: the arm without the constraint, None for that arm itself and where there is none.
        excess: arm - control; negative is a reduction. None where unavailable, as all that follows.
        relative: reduction of the excess as a share of the control's.
        costs: arm - control of each of `COSTS`.
        l0: arm - control.
        time: relative change of the step time.
        matched: whether L0 differs by less than 3 %.
        variance_kept: whether explained variance is shown to lose less than the margin.
        per_percent: absorption removed for each per cent of step time added.
        adjusted_p: of the excess, after Holm's correction over the comparison's arms.
        verdict: of the excess.
        invalid: why absorption cannot be read, None where it can.
        single: differences of the one common seed, where there is only one.
    """

    arm: Arm
    control: Arm | None
    excess: statistics.Difference | None
    relative: statistics.Difference | None
    costs: Mapping[str, statistics.Difference | None]
    l0: statistics.Difference | None
    time: statistics.Difference | None
    matched: bool | None
    variance_kept: str
    per_percent: float | None
    adjusted_p: float | None
    verdict: str
    invalid: str | None
    single: Mapping[str, float]


def unhealthy(arm: Arm) -> dict[int | None, str]:
    """Returns why absorption cannot be read, by seed of the SAEs that are not healthy."""
    reasons = {run.seed: health(gate(run)) for run in arm.finished}
    return {seed: reason for seed, reason in reasons.items() if reason}


def gate(run: Run) -> dict[str, float | None]:
    """Returns the metrics that decide whether absorption can be read."""
    return {
        key: run.value(key)
        for key in ("explained_variance", "explained_variance_quiet_rows", "ce_score")
    }


def readable(arm: Arm, key: str) -> dict[Any, float | None]:
    """A metric by seed; absorption only of healthy SAEs."""
    sick = unhealthy(arm) if is_absorption(key) else {}
    return {seed: None if seed in sick else value for seed, value in arm.values(key).items()}


def compare(comparison: Comparison) -> list[Row]:
    """Returns a row for each arm, in their order."""
    pairs = [(arm, comparison.control(arm)) for arm in comparison.arms]
    excess = {
        arm.name: statistics.paired(readable(arm, "excess"), readable(control, "excess"))
        for arm, control in pairs
        if control is not None
    }
    adjusted = statistics.holm({name: d.p if d else None for name, d in excess.items()})
    return [
        _row(arm, control, excess.get(arm.name), adjusted.get(arm.name)) for arm, control in pairs
    ]


def _row(
    arm: Arm, control: Arm | None, excess: statistics.Difference | None, adjusted: float | None
) -> Row:
    beside = control or Arm(arm.name, ())

    def both(key: str) -> tuple[dict[Any, float | None], dict[Any, float | None]]:
        return readable(arm, key), readable(beside, key)

    time = statistics.relative_change(*both("step_ms"))
    variance = statistics.non_inferior(
        *both("explained_variance"), margin=statistics.MARGIN_EXPLAINED_VARIANCE
    )
    sick = unhealthy(arm) or unhealthy(beside)
    return Row(
        arm=arm,
        control=control,
        excess=excess,
        relative=statistics.relative_reduction(*both("excess")),
        costs={key: statistics.paired(*both(key)) for key in COSTS},
        l0=statistics.paired(*both("l0")),
        time=time,
        matched=statistics.l0_matched(*both("l0")),
        variance_kept=variance.verdict,
        per_percent=_per_percent(statistics.paired(*both("absorption_rate")), time),
        adjusted_p=adjusted,
        verdict=statistics.verdict(
            excess, better="lower", adjusted_p=adjusted, control=readable(beside, "excess")
        ),
        invalid=next(iter(sick.values()), None),
        single=_single({key: both(key) for key in ("excess", "l0", "step_ms", *COSTS)}),
    )


def _per_percent(
    absorption: statistics.Difference | None, time: statistics.Difference | None
) -> float | None:
    """Absorption removed for each per cent of step time, where it was detectably removed."""
    if absorption is None or not absorption.high < 0:
        return None
    return statistics.reduction_per_percent(absorption, time)


def _single(
    metrics: Mapping[str, tuple[dict[Any, float | None], dict[Any, float | None]]],
) -> dict[str, float]:
    """Differences of metrics that exactly one seed has in both arms."""
    found = {}
    for key, (arm, control) in metrics.items():
        seeds = [seed for seed, value in arm.items() if None not in (value, control.get(seed))]
        if len(seeds) == 1:
            ours, theirs = arm[seeds[0]], control[seeds[0]]
            assert ours is not None and theirs is not None
            found[key] = ours - theirs
    return found
