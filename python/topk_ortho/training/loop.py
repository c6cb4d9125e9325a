"""When things happen: steps, log lines, checkpoints, interruptions, and the end of a run."""

from __future__ import annotations

import signal
import statistics
import time
import warnings
from collections import deque
from typing import Any

import torch

from topk_ortho.checkpoint import store
from topk_ortho.constraint.history.figures import stability_figures
from topk_ortho.formats import saelens
from topk_ortho.machine.memory import memory_in_use
from topk_ortho.machine.profile import StepProfile
from topk_ortho.machine.spans import span
from topk_ortho.training import evaluation
from topk_ortho.training.events import EventLog
from topk_ortho.training.finite import NotFiniteError, check_storable
from topk_ortho.training.folder import RunFolder
from topk_ortho.training.interrupt import Interrupted, SignalWatch
from topk_ortho.training.progress import Progress
from topk_ortho.training.state import TrainState
from topk_ortho.training.step import Step, train_step

SATURATED = 0.5
TIMED_STEPS = 10_000  # the latest; a run may have millions


class Loop:
    """One arm in one run folder.

    Args:
        folder: where everything goes.
        state: a fresh state; a stored one is loaded into it by `resume`.
        name: shown beside the progress.
        shown: whether to show progress at all.
        run: what `--resume` goes on with; the folder around it where the arm is a baseline.
        profile: steps to watch (`profile.py`), 0 for none.
    """

    def __init__(
        self,
        folder: RunFolder,
        state: TrainState,
        *,
        name: str,
        shown: bool,
        run: RunFolder,
        profile: int = 0,
    ):
        self.folder, self.state, self.name, self.shown = folder, state, name, shown
        self.profile = profile
        self.run_folder = run
        self.seconds = 0.0
        self.step_seconds: deque[float] = deque(maxlen=TIMED_STEPS)
        self._warned = self._warned_dead = False

    def resume(self) -> None:
        """Go to the newest valid checkpoint, if there is one."""
        newest = store.newest(self.folder.checkpoints)
        if newest is not None:
            self.state.restore(newest.tensors, newest.state, newest.blobs.get("history.bin"))
            self.seconds = newest.state["seconds"]
            keep = self.state.config.keep_checkpoints
            store.tidy(self.folder.checkpoints, newest.step, keep=keep)

    def run(self, *, stop_at: int | None = None) -> dict[str, Any]:
        """Train to the end, or to step `stop_at`, and return the figures.

        Raises:
            Interrupted: stopped before the end; a checkpoint holds the state.
            NotFiniteError: a number that is not finite.
        """
        state, config = self.state, self.state.config
        log = EventLog(self.folder.metrics, keep_until=state.step)
        progress = Progress(self.name, step=state.step, steps=config.steps, shown=self.shown)
        device = state.sae.W_dec.device
        profile = StepProfile(state, steps=self.profile, folder=self.folder)
        logged, logged_step = time.perf_counter(), state.step
        started = logged - self.seconds
        try:
            with SignalWatch() as watch:
                while state.step < config.steps:
                    step = profile.step(lambda: self._step(device))
                    progress.advance()
                    self.seconds = time.perf_counter() - started
                    if state.step % config.log_every == 0 or state.step == config.steps:
                        now = time.perf_counter()
                        event = self._event(step, state.step - logged_step, now - logged)
                        logged, logged_step = now, state.step
                        log.write(event)
                        progress.show(event)
                    stopping = watch.number is not None or state.step == stop_at
                    if stopping and (watch.number is not None or state.step < config.steps):
                        self._checkpoint(log, step)
                        raise Interrupted(
                            step=state.step,
                            steps=config.steps,
                            folder=self.run_folder.path,
                            number=watch.number or signal.SIGINT,
                        )
                    if state.step % config.checkpoint_every == 0 or state.step == config.steps:
                        self._checkpoint(log, step)
                    del step  # its tensors would stay beside those of the next step
        finally:
            profile.close()
            progress.close()
            log.close()
        return self._finish()

    def _step(self, device: torch.device) -> Step:
        with span("data"):
            x = self.state.buffer.next()
        x = x.to(device, non_blocking=True)
        started = time.perf_counter()
        try:
            step = train_step(self.state, x)
            self.step_seconds.append(time.perf_counter() - started)
            return step
        except NotFiniteError as error:
            self._set_aside(error)
            raise

    def _set_aside(self, error: NotFiniteError) -> None:
        """Write the batch of a step that failed, and say where its largest row comes from."""
        from safetensors.torch import save

        sizes = error.batch.abs().amax(1).nan_to_num(nan=torch.inf)
        row = int(sizes.argmax())
        where = self.state.buffer.origin(row)
        error.args = (f"{error} The largest activation, {float(sizes[row]):.3g}, is {where}.",)
        said = {"step": str(self.state.step), "error": str(error)}
        try:
            data = save({"x": error.batch.cpu().contiguous()}, metadata=said)
            self.folder.write_bytes("bad_batch.safetensors", data)
        except OSError as failed:  # what stopped the run must not be lost behind a full disk
            error.args = (f"{error} The batch could not be written ({failed.strerror}).",)

    def _event(self, step: Step, steps: int, seconds: float) -> dict[str, Any]:
        state = self.state
        allocated, reserved = memory_in_use(step.x.device)
        variance = float(step.x.var(0, correction=0).sum())
        l2 = float((step.x - step.out.x_hat[-1]).detach().pow(2).sum(1).mean())
        event: dict[str, Any] = {
            "step": state.step,
            "loss": float(step.loss),
            "l2": l2,
            "l1": float(step.out.codes.value.sum() / len(step.x)),
            "l0": step.out.codes.nnz / len(step.x),
            "orthogonality": self._orthogonality(),
            "penalty": float(step.penalty),
            "aux": float(step.aux),
            "explained_variance": 1 - l2 / variance if variance > 0 else None,
            "dead": self._dead(),
            "zero_rows": int((state.sae.W_dec.detach().norm(dim=1) == 0).sum()),
            "lr": step.lr,
            "sparsity_penalty": step.sparsity_weight,
            "tokens_per_second": steps * len(step.x) / seconds,
            "memory_allocated": allocated,
            "memory_reserved": reserved,
        }
        return event | self._selection_event()

    def _dead(self) -> int:
        """Dead features; that none is left alive is said aloud, once."""
        state, after = self.state, self.state.config.sae.dead_after
        dead = int(state.firing.dead(after).numel())
        if dead == state.config.sae.d_sae and not self._warned_dead:
            self._warned_dead = True
            warnings.warn(
                f"step {state.step}: all {dead} features have been silent for more than {after} "
                "steps, so there is nothing left that learns; start anew with a lower --lr, or "
                "look at the activations.",
                stacklevel=2,
            )
        return dead

    def _orthogonality(self) -> float:
        """The penalty of the current pairs without its weight, also on steps that leave it out."""
        with torch.no_grad():
            constraint, state = self.state.constraint, self.state
            return (
                0.0
                if constraint is None
                else float(constraint.cost(state.sae.W_dec, state.firing.rate))
            )

    def _selection_event(self) -> dict[str, Any]:
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
        if self.state.config.pairs.account:
            event["selection_temporaries"] = constraint.temporaries
            event["selection_held"] = sum(constraint.temporaries.values())
        if selection.saturation > SATURATED and not self._warned:
            self._warned = True
            warnings.warn(
                f"{len(selection)} of {selection.positive} pairs with a positive score were taken, "
                "so hardly anything is being selected; lower --pairs.per-feature or "
                "--pairs.fraction.",
                stacklevel=2,
            )
        history = constraint.settled_history()
        if history is not None:
            last = history.stability()["last"]
            event |= {k: last[k] for k in ("jaccard", "entered", "left", "kept", "mean_ema",
                                           "stable_share")}  # fmt: skip
        return event

    def _checkpoint(self, log: EventLog, step: Step) -> None:
        tensors = {k: v.detach() for k, v in self.state.tensors().items()}
        try:
            check_storable(self.state.step, tensors, step.x)
        except NotFiniteError as error:
            self._set_aside(error)
            raise
        log.sync()
        history = self.state.history()
        store.save(
            self.folder.checkpoints,
            self.state.step,
            tensors=tensors,
            state=self.state.numbers() | {"seconds": self.seconds},
            blobs={} if history is None else {"history.bin": history},
            keep=self.state.config.keep_checkpoints,
        )

    def _finish(self) -> dict[str, Any]:
        state, config = self.state, self.state.config
        if state.step == 0:
            raise RuntimeError("0 steps executed, but a run has to train; see --steps.")
        evaluation.calibrate_threshold(state.sae, state.buffer.fork())
        self._export()
        figures, truth = evaluation.evaluate(state.sae, state.data, samples=config.eval_samples)
        if truth is not None:
            self.folder.write_json("ground_truth.json", truth.table())
        history = state.settled_history()
        if history is not None:
            self.folder.write_bytes("history.bin", history.to_bytes())
            self.folder.write_json("stability.json", stability_figures(history))
        result = (
            {
                "steps": state.step,
                "seconds": round(self.seconds, 3),
                "step_ms": self._step_ms(),
                "seed": config.seed,
                "criterion": config.pairs.criterion,
                "coefficient": config.coefficient() if config.constrained else 0.0,
                "variance": state.data.variance,
                "scale": state.data.scale,
            }
            | self._last_selection()
            | figures
        )
        self.folder.write_json("result.json", result)
        return result

    def _last_selection(self) -> dict[str, Any]:
        """What the run's last selection took, and how much of it came back."""
        logged = self._selection_event()
        names = ("selection_budget", "selection_blocks", "selection_largest_block", "jaccard",
                 "stable_share")  # fmt: skip
        return {name: logged[name] for name in names if logged.get(name) is not None}

    def _step_ms(self) -> float | None:
        """Median time of this process's latest steps, without data, log and checkpoints."""
        return round(1000 * statistics.median(self.step_seconds), 4) if self.step_seconds else None

    def _export(self) -> None:
        """The trained SAE in the units of the model, as SAELens reads it.

        With `x = scale * x_model`, dividing `b_enc`, `b_dec` and the thresholds by the scale keeps
        `W_enc` and the unit rows of `W_dec` and divides the codes by it.
        """
        sae, config, scale = self.state.sae, self.state.config, self.state.data.scale
        thresholds, origin = sae.thresholds(), self.state.data.origin
        saelens.export(
            self.folder.sae,
            kind=config.sae.kind,
            W_enc=sae.W_enc.detach().cpu(),
            b_enc=sae.b_enc.detach().cpu() / scale,
            W_dec=sae.W_dec.detach().cpu(),
            b_dec=sae.b_dec.detach().cpu() / scale,
            threshold=None if thresholds is None else thresholds.detach().cpu() / scale,
            k=config.sae.k,
            hook=origin.get("hook", ""),
            model=origin.get("model", ""),
            metadata={
                "context_size": origin.get("context"),
                "prefixes": list(config.sae.prefixes),
            },
        )
