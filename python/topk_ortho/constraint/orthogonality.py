"""The constraint for any training loop: pairs of a step, their penalty, their history.

In one line, `loss = loss + constraint(acts, W_dec, step, target=x)`; or in two, where the loop has
more to pass: `pairs = constraint.select(codes, ...)`, `constraint.penalty(pairs, W_dec, ...)`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from topk_ortho.config.penalty import coefficient, pair_weight
from topk_ortho.constraint import schedules
from topk_ortho.constraint.activity import PairWeights
from topk_ortho.constraint.every_process import EveryProcess, Scope
from topk_ortho.constraint.firing import Firing
from topk_ortho.constraint.history import HistoryRecorder, PairHistory
from topk_ortho.constraint.micro_batches import MicroBatches
from topk_ortho.constraint.penalty import OrthogonalityPenalty
from topk_ortho.constraint.reach import LOOK_EVERY, Idle, Reach, reach
from topk_ortho.constraint.rows import codes_of_unit_rows, decoder_rows
from topk_ortho.constraint.selection import PairSelection, PairSelector
from topk_ortho.constraint.settings import (
    OrthogonalityConfig,
    checked,
    fraction_at,
    history_capacity,
)
from topk_ortho.constraint.uncompiled import uncompiled
from topk_ortho.constraint.variance import RunningVariance, known
from topk_ortho.sparse.codes import Codes

RUNNING = ("rate", "silent", "threshold", "energy")


class Orthogonality:
    """Selector, penalty and history of one SAE.

    Args:
        config: the settings.
        process_group, scope: whose rows a call in one line counts: `global`, all processes of the
            group (the default group unless given; one process where there is none), or `local`.

    Attributes:
        config: the settings, checked.
        selector: chooses the pairs.
        overlap: the penalty of pairs without its coefficient.
        pair_weights: what the term of each pair is multiplied by.
        factor: `[k]`, the last such numbers; None where all are 1.
        selection: the pairs that are being penalised; None before the first selection.
        selected_at: the step they were chosen on.
        temporaries: peak bytes of the last tracked selection, by the function that made them.
        firing: running firing rates, of calls in one line.
        value: the last penalty that a loss received from such a call, detached.

    Example:
        >>> penalty = Orthogonality(OrthogonalityConfig(steps=10_000))
        >>> loss = loss + penalty(acts, W_dec, step, target=x)

    Raises:
        ConfigError: a setting is out of range, or the criterion needs more than the loop has.
    """

    def __init__(
        self,
        config: OrthogonalityConfig | None = None,
        *,
        process_group: Any = None,
        scope: Scope = "global",
    ):
        self.config = config = checked(config or OrthogonalityConfig())
        pairs, penalty = config.pairs, config.penalty
        self.selector = PairSelector(
            pairs.criterion,
            fraction=pairs.fraction,
            per_feature=pairs.per_feature,
            fraction_of=pairs.fraction_of,
            max_pairs=pairs.max_pairs,
            min_support=pairs.min_support,
            memory_budget=pairs.memory_budget,
            seed=config.seed,
            given=pairs.given or (),
        )
        self.overlap = OrthogonalityPenalty(
            penalty.tau,
            threshold=penalty.threshold,
            sign=penalty.sign,
            gradient=penalty.gradient,
            normalize_by=penalty.normalize_by,
            seed=config.seed,
        )
        self.selection: PairSelection | None = None
        self.selected_at = -1
        weighed = pair_weight(pairs, penalty)
        self.pair_weights = PairWeights(weighed, exponent=penalty.activity_exponent or 1.0)
        self.factor: Tensor | None = None
        self.ema: Tensor | None = None
        self.temporaries: dict[str, int] = {}
        self.firing: Firing | None = None
        self.value: Tensor | None = None
        self._recorder: HistoryRecorder | None = None
        self._tracked_at: int | None = None
        self._measured = RunningVariance()
        self._idle = Idle()
        self._micro_batches = MicroBatches(config.micro_batches)
        self._processes = EveryProcess(scope, process_group)

    def __repr__(self) -> str:
        count, own = len(self.selection or ()), coefficient(self.config.pairs, self.config.penalty)
        return f"Orthogonality({self.selector.criterion!r}, coefficient={own:g}, {count:,} pairs)"

    # --- a loop that passes everything itself ---

    def required_inputs(self, step: int) -> frozenset[str]:
        """Returns what `select` needs besides the codes; nothing where it keeps its pairs."""
        return self.selector.required_inputs if self.selects(step) else frozenset()

    def select(self, codes: Codes, *, step: int, **inputs: Tensor) -> PairSelection | None:
        """Returns the pairs of a step, chosen now or kept; None where the step has no penalty.

        Args:
            codes: the step's codes.
            step: the step's number.
            inputs: the tensors that `required_inputs(step)` names.
        """
        if step % self.config.penalty.every_n:
            return None
        if self.selects(step):
            self._select(codes, inputs, step)
        return self.selection

    def penalty(
        self,
        pairs: PairSelection | None,
        W_dec: Tensor,
        *,
        step: int,
        firing_rate: Tensor,
        active: Tensor | None = None,
    ) -> Tensor:
        """Returns `coefficient * orthogonality` of the pairs as a scalar; 0 without any.

        Args:
            pairs: what `select` returned.
            W_dec: `[d_sae, d_in]`, what the gradient goes to.
            step: the step's number.
            firing_rate: `[d_sae]`.
            active: `[d_sae]`, what `activity` returned, where pairs are weighed by it.
        """
        if pairs is None:
            return W_dec.new_zeros(())
        factor = None
        if not self.pair_weights.alike:  # a GPU's pairs are not at hand yet
            unit = math.sqrt(known(self.variance)) if self._in_variances else 1.0
            factor = self.pair_weights.factors(active, pairs.i, pairs.j, unit=unit)
        self.factor = factor if factor is None else factor.detach()
        return self._penalty(pairs, W_dec, firing_rate, self.weight_at(step), factor)

    def activity(self, acts: Tensor, codes: Codes, *, step: int) -> Tensor | None:
        """Returns `[d_sae]`, how active features are; None where a step does not weigh by that.

        Args:
            acts: `[batch, d_sae]`, or `[nnz]` in the order of `codes`; may receive a gradient.
            codes: their active entries.
            step: the step's number.
        """
        return (
            None if step % self.config.penalty.every_n else self.pair_weights.activity(acts, codes)
        )

    def unweighted(self, W_dec: Tensor, firing_rate: Tensor) -> Tensor:
        """Returns the orthogonality of the current pairs without its coefficient; 0 without any."""
        if self.selection is None:
            return W_dec.new_zeros(())
        return self._penalty(self.selection, W_dec, firing_rate, 1.0, self.factor)

    def reach(self, W_dec: Tensor, firing_rate: Tensor) -> Reach | None:
        """Returns what the current pairs reach; None before the first selection.

        Args:
            W_dec: `[d_sae, d_in]`.
            firing_rate: `[d_sae]`.
        """
        pairs = self.selection
        if pairs is None:
            return None
        overlapping = self.overlap.overlapping(W_dec.detach(), pairs, ema=self.ema)
        return reach(pairs.i, pairs.j, overlapping, firing_rate)

    @property
    def weight(self) -> float:
        """Returns the penalty's coefficient after the ramp.

        Raises:
            ConfigError: it is in units of the variance, and none was given or seen.
        """
        c = self.config
        own = coefficient(c.pairs, c.penalty)
        if not self._in_variances:
            return own * c.micro_batches
        return own * c.error_weight * c.micro_batches * known(self.variance)

    def weight_at(self, step: int) -> float:
        """Returns the penalty's coefficient on a step that has one."""
        c = self.config
        ramp = schedules.ramp(step, steps=c.total_steps, share=c.penalty.ramp)
        return self.weight * ramp * c.penalty.every_n

    # --- any other loop, in one line ---
    @uncompiled
    def __call__(
        self, acts: Tensor | Codes, W_dec: Tensor, step: int, *, target: Tensor | None = None
    ) -> Tensor:
        """Returns the penalty of a step to add to its loss; the gradient goes to `W_dec`.

        Without gradients (`torch.no_grad()`) it is that of the current pairs, and nothing changes;
        with micro-batches it is one micro-batch's share.

        Args:
            acts: `[batch, d_sae]`, dense or sparse (COO, CSR), of any floating dtype; or `Codes`.
            W_dec: `[d_sae, d_out]` or `[d_out, d_sae]`, rows of any norm.
            step: the optimiser's step, from 0; the same for all micro-batches of a step.
            target: `[batch, d_out]`, what is reconstructed; only its variance is used.

        Raises:
            ConfigError: the variance is neither given nor measurable, or the decoder's shape does
                not fit.
            ValueError: activations that are negative or not finite, or a step that began before
                the one before it had all its micro-batches.
        """
        piece = acts if isinstance(acts, Codes) else Codes.of(acts)
        rows = decoder_rows(W_dec, piece.d_sae, self.config.decoder)
        if not torch.is_grad_enabled():
            return self._without_gradient(rows, step)
        if self._in_variances and self.config.variance is None and target is not None:
            self._measured.update(target.detach().flatten(0, -2), self._processes.world)
        own = self._micro_batches.gather(piece, step)
        if own is None:
            return rows.new_zeros(())
        whole = self.selects(step)
        alike = self.pair_weights.alike
        codes, counts, batch = self._processes.batch(own, rows, step=step, whole=whole, alike=alike)
        if self.firing is None:
            self.firing = Firing.zeros(codes.d_sae, codes.device)
        self.firing.update(counts, batch=batch)
        if not self.config.unit_codes:
            codes = codes_of_unit_rows(codes, rows)
        inputs = {"W_dec": rows.detach()} if self.required_inputs(step) else {}
        pairs = self.select(codes, step=step, **inputs)
        scale = None if self.config.unit_codes else rows
        active = self.pair_weights.activity_of_call(acts, codes, rows=scale)
        rate = self.firing.rate
        penalty = self.penalty(pairs, rows, step=step, firing_rate=rate, active=active)
        self.value = penalty.detach()
        if step % LOOK_EVERY == 0 and (found := self.reach(rows, self.firing.rate)):
            self._idle.look(step, found)
        return penalty

    @property
    def variance(self) -> float | None:
        """Returns the total variance, the coefficient's unit; None before any was seen."""
        given = self.config.variance
        return self._measured.value if given is None else given

    # --- what is remembered ---

    @property
    def history(self) -> PairHistory | None:
        """Returns the history with every selection so far observed; None without one."""
        return self._recorder.settled() if self._recorder else None

    def close(self) -> None:
        """End the history's thread; what was recorded stays in the history."""
        if self._recorder is not None:
            self._recorder.close()

    def state_dict(self, *, history: bool = True) -> dict[str, Any]:
        """Returns all that a loop needs to resume, as tensors and plain numbers by name.

        Args:
            history: whether to include the pair history, as bytes `[n]` uint8.

        Raises:
            ValueError: it is called between the micro-batches of a step.
        """
        self._micro_batches.check_whole()
        out: dict[str, Any] = {}
        if self.selection is not None:
            stored = self.selection.state_dict() | {"selected_at": self.selected_at}
            weights = {"ema": self.ema, "factor": self.factor}
            stored |= {n: w.detach() for n, w in weights.items() if w is not None}
            out |= {f"selection.{name}": value for name, value in stored.items()}
        if self.firing is not None:
            out |= {f"firing.{name}": getattr(self.firing, name) for name in RUNNING}
            out["firing.started"] = self.firing.started
        out |= {f"variance.{name}": value for name, value in self._measured.state_dict().items()}
        if history and self._recorder is not None:
            packed = bytearray(self._recorder.settled().to_bytes())
            out["history"] = torch.frombuffer(packed, dtype=torch.uint8)
        return out

    def load_state_dict(
        self,
        state: dict[str, Any],
        *,
        d_sae: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Restore a state that `state_dict` returned.

        Args:
            state: what it returned; anything not in it is left unchanged.
            d_sae: number of features, which the pairs are checked against.
            device: where its tensors go; unless given, they are not moved.

        Raises:
            KeyError, TypeError, ValueError: it is not a state of this constraint.
        """
        parts: dict[str, dict[str, Any]] = {"selection": {}, "firing": {}, "variance": {}}
        for name, value in state.items():
            part, _, key = name.partition(".")
            if part in parts:
                parts[part][key] = value.to(device) if isinstance(value, Tensor) else value
        if "history" in state:
            self.start_history(PairHistory.from_bytes(state["history"].cpu().numpy().tobytes()))
        if firing := parts["firing"]:
            self.firing = Firing(**{name: firing[name].clone() for name in RUNNING})
            self.firing.started = bool(firing["started"])
            d_sae = len(self.firing.rate) if d_sae is None else d_sae
        if parts["variance"]:
            self._measured.load_state_dict(parts["variance"])
        if selection := parts["selection"]:
            at = selection.pop("selected_at")
            if type(at) is not int or at < 0:
                raise ValueError(f"{at!r} is not the number of a step")
            ema, factor = selection.pop("ema", None), selection.pop("factor", None)
            self.selection = PairSelection.of_state(selection, d_sae)
            self.selected_at, self.ema, self.factor = at, ema, factor

    def start_history(self, history: PairHistory) -> None:
        """Continue a history, a fresh one or one from a checkpoint."""
        self.close()
        self._recorder = HistoryRecorder(history, queue_size=self.config.history.queue)

    # --- inside ---

    @property
    def _in_variances(self) -> bool:
        return self.config.penalty.units == "variance"

    def _penalty(
        self,
        pairs: PairSelection,
        W_dec: Tensor,
        firing_rate: Tensor,
        weight: float,
        factor: Tensor | None,
    ) -> Tensor:
        given = {"firing_rate": firing_rate, "ema": self.ema, "factor": factor}
        return self.overlap(W_dec, pairs, coefficient=weight, **given)

    def _without_gradient(self, rows: Tensor, step: int) -> Tensor:
        if self.firing is None or self.selection is None:
            return rows.new_zeros(())
        weight = self.weight_at(step) / self.config.micro_batches
        return self._penalty(self.selection, rows, self.firing.rate, weight, self.factor)

    def selects(self, step: int) -> bool:
        """Returns whether `select` would choose pairs on a step, and not keep its own."""
        c = self.config.penalty
        due = self.selection is None or step - self.selected_at >= c.refresh_every
        return due and step % c.every_n == 0

    def _select(self, codes: Codes, inputs: dict[str, Tensor], step: int) -> None:
        how: dict[str, Any] = {"fraction": fraction_at(self.config, step), "step": step, **inputs}
        last = self._tracked_at
        due = last is None or step - last >= self.config.track_every
        if self.config.pairs.track_memory and due:
            self.selection, self.temporaries = self.selector.tracked(codes, **how)
            self._tracked_at = step
        else:
            self.selection = self.selector(codes, **how)
        self.selected_at = step
        history = self.config.history
        if history.enabled and self._recorder is None:
            capacity = history_capacity(self.config, self.selection.requested)
            self.start_history(PairHistory(capacity=capacity, decay=history.decay))
        if self.config.penalty.tau == "stability":
            self.ema = self._weights_from_history(self.selection).to(codes.device)
        if self._recorder is not None:
            self._recorder.record_selection(step, self.selection)

    def _weights_from_history(self, pairs: PairSelection) -> Tensor:
        """`β EMA_before + (1 - β)`: the present selection counted, whatever the thread's timing."""
        assert self._recorder is not None
        ema = torch.from_numpy(self._recorder.ema(pairs.i.cpu(), pairs.j.cpu()))
        return self.config.history.decay * ema + (1 - self.config.history.decay)
