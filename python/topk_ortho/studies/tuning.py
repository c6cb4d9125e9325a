"""Every arm with a coefficient gets the same number of tries, on seeds that are not reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from topk_ortho.config import ConfigError
from topk_ortho.statistics import mean_of_all
from topk_ortho.statistics.differences import centre_of
from topk_ortho.studies.grid import FACTORS
from topk_ortho.studies.plan import Run, Subject, plain, runs_of
from topk_ortho.studies.recipes import RECIPES

SEEDS = (0, 1, 2)
MAY_LOSE = 0.008
"""Explained variance that a setting may lose against `none` and still be taken."""
RULE = (
    f"lowest excess (below 0 there is none) among the settings whose mean explained variance is "
    f"at least that of none - {MAY_LOSE:g}, the weakest of those within one standard error of it; "
    f"else the highest explained variance"
)

Metrics = dict[str, Any]
Result = Callable[[Run], Metrics | None]
"""The metrics of a run, None where it failed."""


@dataclass(frozen=True)
class Try:
    """One coefficient of one subject, and its runs on the tuning seeds."""

    subject: Subject
    coefficient: float
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Tried:
    """Returns the result of a try; None where a run failed or the metric could not be measured."""

    coefficient: float
    excess: float | None
    explained_variance: float | None
    allowed: bool


Measured = tuple[Tried, Sequence[Metrics | None]]
"""A try and the metrics of its runs."""


def tries(subjects: Sequence[Subject]) -> list[Try]:
    """Returns the tries of every constrained subject; runs of the source experiment have none.

    Raises:
        ConfigError: a coefficient of 0, of which there are no multiples.
    """
    found = []
    for subject in subjects:
        if not _has_tries(subject):
            continue
        own = subject.config.coefficient()
        if not own > 0:
            raise ConfigError(
                f"--tune was given, but {subject.label} has the coefficient {own:g} and a number "
                "above 0 was expected; leave --penalty.coefficient out."
            )
        for factor in FACTORS:
            coefficient = round(own * factor, 9)
            tried = with_coefficient(subject, coefficient)
            found.append(Try(subject, coefficient, runs_of([tried], SEEDS)))
    return found


def with_coefficient(subject: Subject, coefficient: float) -> Subject:
    """Returns the subject with another coefficient of the penalty."""
    penalty = replace(subject.config.penalty, coefficient=coefficient)
    return replace(subject, config=replace(subject.config, penalty=penalty))


def _has_tries(subject: Subject) -> bool:
    """Returns whether it is tuned; runs of the source experiment are not."""
    return subject.config.constrained and subject.arm not in RECIPES


def references(subjects: Sequence[Subject]) -> tuple[Run, ...]:
    """Returns the runs of `none` that explained variance is compared with.

    Raises:
        ConfigError: `none` was left out.
    """
    found = [s for s in subjects if s.arm == "none"]
    if not found:
        raise ConfigError(
            "--tune was given together with --without-arm none, but the rule needs the explained "
            "variance of none; leave one of them out."
        )
    return runs_of(found, SEEDS)


def worth_tuning(tried: Sequence[Try], nones: Sequence[Run], result: Result) -> list[Try]:
    """Returns the tries whose `none` has excess to remove.

    Where that of `none` is within one standard error of 0, its own noise would choose.
    """

    def nothing_to_remove(subject: Subject) -> bool:
        metrics = [result(run) for run in _beside(subject, nones)]
        if mean_of(metrics, "excess") is None:
            return False
        centre, error = centre_of([f["excess"] for f in metrics if f])
        return centre <= (error or 0.0)

    return [t for t in tried if not nothing_to_remove(t.subject)]


def _beside(subject: Subject, nones: Sequence[Run]) -> list[Run]:
    return [run for run in nones if run.axis.items() <= subject.axis.items()]


def mean_of(metrics: Sequence[Metrics | None], key: str) -> float | None:
    """Mean over seeds, None unless every seed has the metric."""
    return mean_of_all(None if f is None else f.get(key) for f in metrics)


def weigh(tries: Sequence[tuple[float, Sequence[Metrics | None]]], *, none: float | None
) -> tuple[list[Tried], Tried | None]:  # fmt: skip
    """Returns what was tried, and what the rule takes; None where no try was measured.

    Args:
        tries: coefficients and the metrics of their runs.
        none: mean explained variance of `none` on the same seeds.
    """
    weighed = []
    for coefficient, metrics in tries:
        explained = mean_of(metrics, "explained_variance")
        allowed = None not in (explained, none) and explained >= none - MAY_LOSE  # type: ignore[operator]
        weighed.append(Tried(coefficient, mean_of(metrics, "excess"), explained, allowed))
    good = [(t, f) for t, (_, f) in zip(weighed, tries, strict=True)
            if t.allowed and t.excess is not None]  # fmt: skip
    if good:
        lowest = min(good, key=lambda each: (_left(each[0]), each[0].coefficient))
        near = [each[0] for each in good if _as_good(each, lowest)]
        return weighed, min(near, key=lambda t: t.coefficient)
    measured = [t for t in weighed if t.explained_variance is not None]
    best = max(measured, key=lambda t: (t.explained_variance or 0.0, -t.coefficient), default=None)
    return weighed, best


def _left(tried: Tried) -> float:
    """Returns what is left to remove: an excess below 0 is none."""
    return max(tried.excess or 0.0, 0.0)


def _as_good(each: Measured, lowest: Measured) -> bool:
    """Returns whether the excess is within one standard error of the lowest, paired by seed.

    Where there is next to nothing to remove, the lowest excess is a matter of chance, and a strong
    penalty would be paid for with explained variance (the rule of one standard error: Breiman et
    al. 1984, 3.4.3).
    """
    differences = [
        f["excess"] - g["excess"] for f, g in zip(each[1], lowest[1], strict=True) if f and g
    ]
    _, error = centre_of(differences)
    return _left(each[0]) - _left(lowest[0]) <= (error or 0.0)


def choose(
    subjects: Sequence[Subject], tried: Sequence[Try], nones: Sequence[Run], result: Result
) -> tuple[list[Subject], list[dict[str, Any]]]:
    """The subjects with the coefficients that the rule takes, and the record of it.

    A subject without any measured try keeps its own coefficient, and the record says so.
    """
    chosen, record = [], []
    for subject in subjects:
        if not _has_tries(subject):
            chosen.append(subject)
            continue
        own = [t for t in tried if t.subject == subject]
        none = mean_of([result(r) for r in _beside(subject, nones)], "explained_variance")
        pairs = [(t.coefficient, [result(r) for r in t.runs]) for t in own]
        weighed, best = weigh(pairs, none=none)
        coefficient = subject.config.coefficient() if best is None else best.coefficient
        chosen.append(with_coefficient(subject, coefficient))
        record.append({
            "label": subject.label,
            "arm": subject.arm,
            "axis": plain(subject.axis),
            "coefficient": coefficient,
            "measured": best is not None,
            "explained_variance_none": none,
            "tried": [vars(t) for t in weighed],
        })  # fmt: skip
    return chosen, record


def as_json(tried: Sequence[Try], nones: Sequence[Run], chosen: list[dict[str, Any]]) -> Metrics:
    """Returns `tuning` of `ablation.json`."""
    runs = [run.as_json() for run in nones]
    runs += [run.as_json() | {"coefficient": t.coefficient} for t in tried for run in t.runs]
    return {
        "seeds": list(SEEDS),
        "factors": list(FACTORS),
        "rule": RULE,
        "runs": runs,
        "chosen": chosen,
    }
