"""The constraint as one step sees it: when to select, what to remember, what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from topk_ortho.config import TrainConfig
from topk_ortho.constraint import schedules
from topk_ortho.constraint.history import HistoryRecorder, PairHistory
from topk_ortho.constraint.penalty import OrthogonalityPenalty
from topk_ortho.constraint.selection import PairSelection, PairSelector
from topk_ortho.sparse.codes import Codes

LEAST_CAPACITY = 1 << 20
PAIRS_PER_ENTRY = 32


class Constraint:
    """Selector, penalty and history of one run.

    Attributes:
        weight: the penalty's weight after the ramp.
        selection: the pairs that are being penalised, None before the first selection.
        selected_at: the step they were chosen on.
        temporaries: bytes that the last selection that was accounted for held, by who made them.
    """

    def __init__(self, config: TrainConfig, *, variance: float):
        self.config = config
        pairs, penalty = config.pairs, config.penalty
        self.weight = config.coefficient() * (variance if penalty.units == "variance" else 1.0)
        self.selector = PairSelector(
            pairs.criterion,
            fraction=pairs.fraction,
            per_feature=pairs.per_feature,
            of=pairs.of,
            max_pairs=pairs.max_pairs,
            min_support=pairs.min_support,
            memory_budget=pairs.memory_budget,
            seed=config.seed,
        )
        self.penalty = OrthogonalityPenalty(
            penalty.tau,
            threshold=penalty.threshold,
            sign=penalty.sign,
            gradient=penalty.gradient,
            n=penalty.n,
            seed=config.seed,
        )
        self.recorder: HistoryRecorder | None = None
        self.selection: PairSelection | None = None
        self.selected_at = -1
        self.ema: Tensor | None = None
        self.temporaries: dict[str, int] = {}
        self._accounted_at: int | None = None

    def needs(self, step: int) -> frozenset[str]:
        """What a step's selection looks at besides the codes; nothing where it selects nothing."""
        return self.selector.needs if self._selects(step) else frozenset()

    def __call__(
        self,
        codes: Codes,
        W_dec: Tensor,
        firing_rate: Tensor,
        step: int,
        evidence: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Tensor:
        """`coefficient * orthogonality` of this step; 0 where `every_n` leaves the step out.

        Args:
            codes: the step's codes.
            W_dec: `[d_sae, d_in]`, what the gradient goes to.
            firing_rate: `[d_sae]`.
            step: the step's number.
            evidence: the tensors that `needs(step)` names.
        """
        if step % self.config.penalty.every_n:
            return W_dec.new_zeros(())
        if self._selects(step):
            self._select(codes, evidence, step)
        return self.cost(W_dec, firing_rate, coefficient=self.coefficient(step))

    def coefficient(self, step: int) -> float:
        """The penalty's weight on a step that has one."""
        c = self.config.penalty
        ramp = schedules.ramp(step, steps=self.config.steps, share=c.ramp)
        return self.weight * ramp * c.every_n

    def cost(self, W_dec: Tensor, firing_rate: Tensor, *, coefficient: float = 1.0) -> Tensor:
        """`coefficient * orthogonality` of the current pairs; 0 before the first selection."""
        if self.selection is None:
            return W_dec.new_zeros(())
        return self.penalty(
            W_dec,
            self.selection,
            firing_rate=firing_rate,
            ema=self.ema,
            coefficient=coefficient,
        )

    def close(self) -> None:
        """End the history's thread; what was recorded stays in the history's bytes."""
        if self.recorder is not None:
            self.recorder.close()

    def settled_history(self) -> PairHistory | None:
        """The history with every selection so far observed."""
        return self.recorder.settled() if self.recorder else None

    def _selects(self, step: int) -> bool:
        c = self.config.penalty
        due = self.selection is None or step - self.selected_at >= c.refresh_every
        return due and step % c.every_n == 0

    def _accounts(self, step: int) -> bool:
        last = self._accounted_at
        due = last is None or step - last >= self.config.log_every
        return self.config.pairs.account and due

    def _select(self, codes: Codes, evidence: Mapping[str, Tensor], step: int) -> None:
        how: dict[str, Any] = {"fraction": self._fraction(step), "step": step, **evidence}
        if self._accounts(step):
            self.selection, self.temporaries = self.selector.accounted(codes, **how)
            self._accounted_at = step
        else:
            self.selection = self.selector(codes, **how)
        self.selected_at = step
        history = self.config.history
        if history.enabled and self.recorder is None:
            capacity = history.capacity or max(LEAST_CAPACITY, PAIRS_PER_ENTRY * self._most_pairs())
            self.start_history(PairHistory(capacity=capacity, decay=history.decay))
        if self.config.penalty.tau == "stability":
            i, j = self.selection.i.cpu(), self.selection.j.cpu()
            self.ema = self._weights_from_history(i, j).to(codes.device)
        if self.recorder is not None:
            i, j = self.selection.distinct()
            self.recorder.record(step, i.cpu(), j.cpu())

    def _most_pairs(self) -> int:
        """The largest k that the schedule will ask for, from what it asks for now."""
        assert self.selection is not None
        pairs = self.config.pairs
        growth = (pairs.final_fraction or 0) / (pairs.fraction or 1)
        return round(self.selection.requested * max(1.0, growth))

    def start_history(self, history: PairHistory) -> None:
        """Go on with a history, fresh or from a checkpoint."""
        self.recorder = HistoryRecorder(history, queue_size=self.config.history.queue)

    def _weights_from_history(self, i: Tensor, j: Tensor) -> Tensor:
        """`β EMA_before + (1 - β)`: the present selection counted, whatever the thread's timing."""
        assert self.recorder is not None
        beta = self.config.history.decay
        return beta * torch.from_numpy(self.recorder.ema(i, j)) + (1 - beta)

    def _fraction(self, step: int) -> float | None:
        pairs = self.config.pairs
        if pairs.fraction is None:
            return None
        return schedules.fraction(
            step,
            kind=pairs.schedule,
            start=pairs.fraction,
            end=pairs.final_fraction,
            steps=pairs.schedule_steps or self.config.steps,
        )
