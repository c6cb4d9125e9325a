"""The penalty for any training loop: `loss = loss + penalty(acts, W_dec, step)`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from topk_ortho.config import (
    ConfigError,
    HistoryConfig,
    PairsConfig,
    PenaltyConfig,
    TrainConfig,
)
from topk_ortho.config.rules import check
from topk_ortho.constraint.firing import Firing
from topk_ortho.constraint.history import PairHistory
from topk_ortho.constraint.rows import Orientation, codes_of_unit_rows, decoder_rows
from topk_ortho.constraint.selection import PairSelection
from topk_ortho.constraint.variance import RunningVariance
from topk_ortho.sparse.codes import Codes
from topk_ortho.training.constraint import Constraint


@dataclass(frozen=True)
class OrthogonalityConfig:
    """Which pairs are penalised, how much, and what the host's loop is like."""

    pairs: PairsConfig = field(default_factory=PairsConfig)
    """Which pairs."""
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    """What a pair costs."""
    history: HistoryConfig = field(default_factory=HistoryConfig)
    """What is remembered of them."""
    seed: int = 0
    """Seed of what is random in a selection."""
    steps: int | None = None
    """Optimiser steps of the run, which ramp and schedules follow; unless given, what the host
    says, and 2000 where it does not, which is a ramp over 100 steps."""
    variance: float | None = None
    """Total variance of what is reconstructed, summed over dimensions; measured unless given."""
    decoder: Orientation = "auto"
    """Whether features are the decoder's `rows` or `columns`; by its shape unless given."""
    unit_codes: bool = False
    """Whether activations have the norms of the decoder rows in them already."""
    micro_batches: int = 1
    """Backward passes per optimiser step, whose losses are divided by this number: the pairs are
    those of all their rows, and the penalty comes with the last."""
    error_weight: float = 1.0
    """What the loss makes of the squared error, summed over dimensions and averaged over the batch;
    the penalty is weighted alike where its coefficient counts in variances."""


class Orthogonality:
    """Selector, firing rates, history and weight of one SAE, in anyone's loop.

    Attributes:
        firing: running firing rates.
        value: the last penalty that a loss received, detached.

    Example:
        >>> penalty = Orthogonality(OrthogonalityConfig(steps=10_000))
        >>> loss = loss + penalty(acts, W_dec, step, target=x)

    Raises:
        ConfigError: a setting is out of range, or this criterion needs more than codes and decoder.
    """

    def __init__(self, config: OrthogonalityConfig | None = None):
        self.config = config = OrthogonalityConfig() if config is None else config
        run = _checked(config)
        self._constraint = Constraint(run, variance=config.error_weight)
        _check_needs(run.pairs.criterion, self._constraint)
        self._weight = self._constraint.weight * config.micro_batches
        self._in_variances = run.penalty.units == "variance"
        self._measured = RunningVariance()
        self._pieces: list[Codes] = []
        self._pieces_of = -1
        self.firing: Firing | None = None
        self.value: Tensor | None = None

    def __call__(
        self, acts: Tensor | Codes, W_dec: Tensor, step: int, *, target: Tensor | None = None
    ) -> Tensor:
        """The penalty of a step as a scalar to add to its loss; the gradient goes to `W_dec`.

        Without gradients (`torch.no_grad()`) it prices the current pairs and changes nothing; with
        micro-batches that is the share of one.

        Args:
            acts: `[batch, d_sae]`, dense or sparse (COO, CSR), of any floating dtype; or `Codes`.
            W_dec: `[d_sae, d_out]` or `[d_out, d_sae]`, rows of any norm.
            step: the optimiser's step, from 0; the same for all micro-batches of a step.
            target: `[batch, d_out]`, what is reconstructed; only its variance is looked at.

        Raises:
            ConfigError: the variance is neither given nor measurable, or the decoder's shape does
                not fit.
            ValueError: activations that are negative or not finite, or a step that began before
                the one before it had all its micro-batches.
        """
        piece = acts if isinstance(acts, Codes) else Codes.of(acts)
        rows = decoder_rows(W_dec, piece.d_sae, self.config.decoder)
        if not torch.is_grad_enabled():
            return self._priced(rows, step)
        if self._in_variances and self.config.variance is None and target is not None:
            self._measured.update(target.detach().flatten(0, -2))
        codes = self._gathered(piece, step)
        if codes is None:
            return rows.new_zeros(())
        if self.firing is None:
            self.firing = Firing.zeros(codes.d_sae, codes.device)
        self.firing.update(codes.counts(), batch=codes.batch)
        if not self.config.unit_codes:
            codes = codes_of_unit_rows(codes, rows)
        self._constraint.weight = self._weight * self._unit()
        evidence = {"W_dec": rows.detach()} if self._constraint.needs(step) else {}
        penalty = self._constraint(codes, rows, self.firing.rate, step, evidence)
        self.value = penalty.detach()
        return penalty

    @property
    def selection(self) -> PairSelection | None:
        """The pairs that are being penalised; None before the first selection."""
        return self._constraint.selection

    @property
    def variance(self) -> float | None:
        """Total variance that the coefficient counts in; None before any was seen."""
        given = self.config.variance
        return self._measured.value if given is None else given

    @property
    def history(self) -> PairHistory | None:
        """The history with every selection so far observed; None without one."""
        return self._constraint.settled_history()

    def close(self) -> None:
        """End the history's thread; the history stays."""
        self._constraint.close()

    def _unit(self) -> float:
        if not self._in_variances:
            return 1.0
        if self.variance is None:
            raise ConfigError(
                "the penalty's coefficient counts in variances of the data, but no variance was "
                "given or seen; pass target=x with every call, or give "
                'OrthogonalityConfig(variance=...), or PenaltyConfig(units="absolute").'
            )
        return self.variance

    def _priced(self, rows: Tensor, step: int) -> Tensor:
        if self.firing is None:
            return rows.new_zeros(())
        coefficient = self._constraint.coefficient(step) / self.config.micro_batches
        return self._constraint.cost(rows, self.firing.rate, coefficient=coefficient)

    def _gathered(self, codes: Codes, step: int) -> Codes | None:
        """The codes of all micro-batches of a step; None while more are to come."""
        if self.config.micro_batches == 1:
            return codes
        if self._pieces and step != self._pieces_of:
            raise ValueError(
                f"step {step} began after {len(self._pieces)} of {self.config.micro_batches} "
                f"micro-batches of step {self._pieces_of}; pass the optimiser's step, the same for "
                "all its micro-batches, or correct micro_batches."
            )
        self._pieces_of = step
        self._pieces.append(codes)
        if len(self._pieces) < self.config.micro_batches:
            return None
        pieces, self._pieces = self._pieces, []
        return Codes.concatenate(pieces)


def decided_by(host: str, config: OrthogonalityConfig, **values: Any) -> OrthogonalityConfig:
    """The settings with what a host decides itself.

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


def _checked(c: OrthogonalityConfig) -> TrainConfig:
    """The settings as those of a run, which is where their rules are."""
    if c.pairs.criterion == "none":
        raise ConfigError(
            "criterion none was given, but that is a run without the constraint; leave the call "
            "out, or take coactivation."
        )
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
    run = TrainConfig(seed=c.seed, pairs=c.pairs, penalty=c.penalty, history=c.history)
    return check(run if c.steps is None else replace(run, steps=c.steps))


def _check_needs(criterion: str, constraint: Constraint) -> None:
    missing = sorted(constraint.selector.needs - {"W_dec"})
    if missing:
        raise ConfigError(
            f"criterion {criterion} was given, but it also looks at {', '.join(missing)}, which a "
            "host does not pass on; take one that needs codes and decoder alone, such as "
            "coactivation or coactive-cosine, or train with `python -m topk_ortho.train`."
        )
