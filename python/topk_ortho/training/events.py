"""The log `metrics.jsonl`: one JSON object per logged step, and its contents.

A line with `held_out` has the metrics on held-out activations after that step, and nothing else.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from topk_ortho.constraint.reach import Idle
from topk_ortho.machine.memory import memory_in_use
from topk_ortho.metrics.loud_rows import loud_rows, loudest, score_share
from topk_ortho.sparse.scale import row_norms
from topk_ortho.training import loggers
from topk_ortho.training.state import TrainState
from topk_ortho.training.step import Step

SATURATED = 0.5


class EventLog:
    """Appends lines, and tells the run's open loggers (`loggers.py`) the same.

    A torn last line and lines after the resumed step are cut off at the start.

    Args:
        path: the file, created if need be.
        keep_until: the last step whose line stays.

    Attributes:
        measured: the last step whose held-out metrics were in the file at the start, 0 for none.
    """

    def __init__(self, path: Path, *, keep_until: int):
        self.measured = self._truncate(path, keep_until)
        self._beside = loggers.beside(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, event: dict[str, Any]) -> None:
        """Append one object; it reaches the file before this returns."""
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()
        self._beside.log(event)

    def sync(self) -> None:
        """Flush what was written to the disk, so that no checkpoint outlives the lines before."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def _truncate(path: Path, keep_until: int) -> int:
        """Cut off what does not stay; returns the last step with held-out metrics."""
        good = measured = 0
        if not path.exists():
            return measured
        with path.open("rb") as file:
            for line in file:
                try:
                    event = json.loads(line)
                    step = event["step"]
                except (ValueError, KeyError, TypeError, RecursionError):
                    break
                if not line.endswith(b"\n") or type(step) is not int or step > keep_until:
                    break
                good += len(line)
                measured = step if "held_out" in event else measured
        with path.open("r+b") as file:
            file.truncate(good)
        return measured


class NoLog:
    """The log of a process that writes none, since process 0 does.

    Attributes:
        measured: as of the log of process 0.
    """

    def __init__(self, measured: int) -> None:
        self.measured = measured

    def write(self, event: dict[str, Any]) -> None:
        """Write nothing."""

    def sync(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class StepMetrics:
    """Returns the line of a logged step; warns, once, of anything that is wrong."""

    def __init__(self, state: TrainState) -> None:
        self.state = state
        self._warned = self._warned_dead = False
        self._idle = Idle()

    def of(self, step: Step, *, steps: int, seconds: float) -> dict[str, Any]:
        """Returns the line of `step`, the last of `steps` that took `seconds`."""
        state = self.state
        allocated, reserved = memory_in_use(step.x.device)
        variance = float(step.target.var(0, correction=0).sum())
        l2 = float((step.target - step.out.x_hat[-1]).detach().pow(2).sum(1).mean())
        event: dict[str, Any] = {
            "step": state.step,
            "loss": float(step.loss),
            "l2": l2,
            "l1": float(step.out.codes.value.sum() / len(step.x)),
            "l0": step.out.codes.active / len(step.x),
            "orthogonality": self._orthogonality(),
            "penalty": float(step.penalty),
            "penalty_share": float(step.penalty / step.loss) if float(step.loss) else None,
            "aux": float(step.aux),
            "explained_variance": 1 - l2 / variance if variance > 0 else None,
            "dead": self._dead(),
            "zero_rows": int((row_norms(state.sae.W_dec.detach()) == 0).sum()),
            "lr": step.lr,
            "sparsity_penalty": step.sparsity_coefficient,
            **_loud_rows(step),
            "tokens_per_second": steps * len(step.x) / seconds,
            "memory_allocated": allocated,
            "memory_reserved": reserved,
        }
        return event | self.selected()

    def _dead(self) -> int:
        """Returns the dead features; warns, once, where none is left alive."""
        state, after = self.state, self.state.config.sae.dead_after
        dead = int(state.firing.dead(after).numel())
        if dead == state.config.sae.d_sae and not self._warned_dead:
            self._warned_dead = True
            warnings.warn(
                f"step {state.step}: all {dead} features have been silent for more than {after} "
                "steps, so nothing is left that can learn; start again with a lower --lr, or "
                "look at the activations.",
                stacklevel=2,
            )
        return dead

    def _orthogonality(self) -> float:
        """Returns the current pairs' penalty without coefficient, also on steps without one."""
        with torch.no_grad():
            constraint, state = self.state.constraint, self.state
            return (
                0.0
                if constraint is None
                else float(constraint.unweighted(state.sae.W_dec, state.firing.rate))
            )

    def selected(self) -> dict[str, Any]:
        """Returns the latest selection and what its pairs reach."""
        return self._selection() | self._reach()

    def _selection(self) -> dict[str, Any]:
        """Returns the cost of the latest selection, and its overlap with the one before."""
        constraint = self.state.constraint
        event: dict[str, Any] = {"pairs": 0, "pairs_requested": 0, "jaccard": None}
        if constraint is None or constraint.selection is None:
            return event
        selection = constraint.selection
        event |= {
            "pairs": len(selection),
            "pairs_requested": selection.requested,
            "pairs_positive": selection.positive,
            "pairs_unsupported": selection.unsupported,
            "saturation": selection.saturation,
            "path": selection.path,
            "selection_budget": constraint.selector.memory_budget,
            "selection_blocks": selection.blocks,
            "selection_largest_block": selection.largest_block,
        }
        if self.state.config.pairs.track_memory:
            event["selection_temporaries"] = constraint.temporaries
            event["selection_held"] = sum(constraint.temporaries.values())
        chosen = selection.path != "list"  # a list is taken whole
        if chosen and selection.saturation > SATURATED and not self._warned:
            self._warned = True
            warnings.warn(
                f"{len(selection)} of {selection.positive} pairs with a positive score were taken, "
                "so hardly anything is being selected; lower --pairs.per-feature or "
                "--pairs.fraction.",
                stacklevel=2,
            )
        history = constraint.history
        if history is not None:
            last = history.stability()["last"]
            event |= {k: last[k] for k in ("jaccard", "entered", "left", "kept", "mean_ema",
                                           "stable_share")}  # fmt: skip
        return event

    def _reach(self) -> dict[str, Any]:
        """Returns what the pairs reach; warns, once, where they lie among a few features."""
        state = self.state
        if state.constraint is None:
            return {}
        found = state.constraint.reach(state.sae.W_dec, state.firing.rate)
        if found is None:
            return {}
        self._idle.look(state.step, found)
        return {
            "pairs_overlapping": found.overlapping,
            "pairs_features": found.features,
            "living_features": found.living,
        }


def _loud_rows(step: Step) -> dict[str, Any]:
    """Returns the loudest one percent of rows' share of the batch's variance and scores."""
    codes, x = step.out.codes, step.target
    value = codes.value.detach().double()
    sums, squares = (
        torch.zeros(codes.batch, dtype=torch.float64, device=x.device).index_add_(0, codes.row, v)
        for v in (value, value.square())
    )
    return {
        "variance_share_top_rows": loud_rows(x).variance_share,
        "score_share_top_rows": score_share(sums, squares, loudest(x)),
    }
