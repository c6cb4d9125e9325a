"""The constraint's settings: which pairs, their penalty, and the loop around it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from topk_ortho.config import (
    DEFAULT_STEPS,
    ConfigError,
    HistoryConfig,
    PairsConfig,
    PenaltyConfig,
)
from topk_ortho.config.errors import in_python
from topk_ortho.config.option import SEED, check_ranges, option
from topk_ortho.config.penalty import pair_weight
from topk_ortho.config.registry import CRITERIA
from topk_ortho.config.rules import check_constraint
from topk_ortho.config.settings import Settings
from topk_ortho.config.toml import canonical
from topk_ortho.constraint import schedules
from topk_ortho.constraint.rows import Orientation

LEAST_CAPACITY = 1 << 20
PAIRS_PER_ENTRY = 32


@dataclass(frozen=True, repr=False)
class OrthogonalityConfig(Settings):
    """The settings of the constraint: pairs, penalty, history, and the loop around it."""

    pairs: PairsConfig = field(default_factory=PairsConfig)
    """The choice of pairs."""
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    """The penalty of a pair."""
    history: HistoryConfig = field(default_factory=HistoryConfig)
    """The history of the pairs."""
    seed: int = option(0, within=SEED)
    """Seed of what is random in a selection."""
    steps: int | None = None
    """Optimiser steps of the run, which ramp and schedules follow; unless given, what the host
    says, and 2000 where it does not, which is a ramp over 100 steps."""
    variance: float | None = None
    """Total variance of what is reconstructed, summed over dimensions; measured unless given."""
    decoder: Orientation = "auto"
    """Features are the decoder's `rows` or `columns`; by its shape unless given."""
    unit_codes: bool = False
    """Set where activations already include the norms of the decoder rows."""
    micro_batches: int = 1
    """Backward passes per optimiser step, whose losses are divided by this number: the pairs are
    those of all their rows, and the penalty comes with the last."""
    error_weight: float = 1.0
    """Factor of the squared error in the loss, summed over dimensions and averaged over the batch;
    the penalty is weighted alike where its coefficient is in units of the variance."""
    inputs: tuple[str, ...] = ("W_dec",)
    """Inputs that the loop passes besides the codes, names of `INPUTS`; a criterion that needs more
    is refused. More than the decoder goes to `select`, not to the call in one line."""
    track_every: int = 50
    """Steps between two selections whose memory is tracked, where `pairs.track_memory` is on."""

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the run, the default where nothing says."""
        return DEFAULT_STEPS if self.steps is None else self.steps


def checked(c: OrthogonalityConfig) -> OrthogonalityConfig:
    """Returns the settings with normalised names, as the options have them.

    Raises:
        ConfigError: one is out of range or contradicts another, or the criterion needs what the
            loop does not pass.
    """
    if c.pairs.criterion == "none":
        raise ConfigError(
            "criterion none was given, but that is a run without the constraint; leave the call "
            "out, or take row-coactivation."
        )
    with in_python():
        c = canonical(c)
    for name, value in (("variance", c.variance), ("error_weight", c.error_weight)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(
                f"{name}={value} was given, but a finite number above 0 was expected; leave it out."
            )
    if c.micro_batches < 1:
        raise ConfigError(
            f"micro_batches={c.micro_batches} was given, but a whole number from 1 was expected; "
            "1 is no gradient accumulation."
        )
    for name, number in (("steps", c.total_steps), ("track_every", c.track_every)):
        if number < 1:
            raise ConfigError(
                f"{name}={number} was given, but at least 1 step was expected; leave it out."
            )
    with in_python():
        check_ranges(c)
        check_constraint(c)
    _check_micro_batches(c)
    missing = sorted(CRITERIA[c.pairs.criterion].required_inputs - set(c.inputs))
    if missing:
        raise ConfigError(
            f"criterion {c.pairs.criterion} was given, but it also needs {', '.join(missing)}, "
            "which a host does not pass on; take one that needs codes and decoder alone, such as "
            "row-coactivation or coactive-cosine, or train with `python -m topk_ortho.train`."
        )
    return c


def _check_micro_batches(c: OrthogonalityConfig) -> None:
    if c.micro_batches > 1 and pair_weight(c.pairs, c.penalty) == "activity":
        raise ConfigError(
            f"criterion {c.pairs.criterion} weighs pairs by how active they are, with a gradient "
            f"to the activations, and micro_batches={c.micro_batches} was given, but the graph of "
            "a micro-batch is gone when the last one comes; train without micro-batches, or give "
            'PenaltyConfig(pair_weight="activity-detached").'
        )


def decided_by(host: str, config: OrthogonalityConfig, **values: Any) -> OrthogonalityConfig:
    """Returns the settings with what a host decides itself.

    Raises:
        ConfigError: one of them was given, and differently.
    """
    for name, value in values.items():
        given = getattr(config, name)
        if given not in (getattr(OrthogonalityConfig(), name), value):
            raise ConfigError(
                f"{name}={given} was given, but {host} decides it, and it is {value} here; leave "
                "it out."
            )
    return replace(config, **values)


def history_capacity(c: OrthogonalityConfig, requested: int) -> int:
    """Returns how many pairs the history holds.

    Args:
        c: the settings.
        requested: pairs that the first selection was asked for.
    """
    growth = max(1.0, (c.pairs.final_fraction or 0) / (c.pairs.fraction or 1))
    return c.history.capacity or max(LEAST_CAPACITY, PAIRS_PER_ENTRY * round(requested * growth))


def fraction_at(c: OrthogonalityConfig, step: int) -> float | None:
    """Returns the share of the pairs that a step selects; None where none is given."""
    pairs = c.pairs
    if pairs.fraction is None:
        return None
    return schedules.fraction(
        step,
        kind=pairs.schedule,
        start=pairs.fraction,
        end=pairs.final_fraction,
        steps=pairs.schedule_steps or c.total_steps,
    )
