"""The training loop: steps, log lines, checkpoints, interruptions, and the end of a run."""

from __future__ import annotations

import signal
import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from topk_ortho.activations.buffer import Batch
from topk_ortho.checkpoint import store
from topk_ortho.distributed.first import by_first
from topk_ortho.distributed.world import PeerError, nobody_asks
from topk_ortho.machine.interrupt import Interrupted, SignalWatch, kept
from topk_ortho.machine.profile import StepProfile
from topk_ortho.machine.spans import span
from topk_ortho.training import held_out, together
from topk_ortho.training.divided_step import divided_step, gathered
from topk_ortho.training.events import EventLog, NoLog, StepMetrics
from topk_ortho.training.finish import finish
from topk_ortho.training.finite import NotFiniteError, check_storable, check_unread, set_aside
from topk_ortho.training.folder import RunFolder
from topk_ortho.training.progress import Progress
from topk_ortho.training.state import TrainState
from topk_ortho.training.step import Step, train_step
from topk_ortho.training.warm_start import start_from

TIMED_STEPS = 10_000  # the latest; a run may have millions


class Loop:
    """One arm in one run folder.

    Args:
        folder: where everything goes.
        state: a fresh state; a stored one is loaded into it by `resume`.
        name: shown beside the progress.
        shown: whether to show progress at all.
        run: the folder for `--resume`; the enclosing one where the arm is a baseline.
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
        self._step_ms: float | None = None  # of the previous process, for one that has no step left
        self._metrics = StepMetrics(state)

    def resume(self) -> None:
        """Load the newest valid checkpoint, if there is one."""
        newest = together.newest_checkpoint(self.folder, self.state.world)
        if newest is not None:
            self.state.restore(newest.tensors, newest.state, newest.blobs.get("history.bin"))
            self.seconds, self._step_ms = newest.state["seconds"], newest.state.get("step_ms")
            if self.state.world.first:
                keep = self.state.config.keep_checkpoints
                store.tidy(self.folder.checkpoints, newest.step, keep=keep)

    def begin(self) -> None:
        """Load the newest valid checkpoint, or else the SAE that the run is to start from."""
        self.resume()
        if self.state.step == 0 and self.state.config.init_from is not None:
            start_from(self.state)
        together.same_start(self.state)
        self.state.sae.share(self.state.world, batch=self.state.config.batch_size)

    def run(self, *, stop_at: int | None = None) -> dict[str, Any]:
        """Train to the end, or to step `stop_at`, and return the metrics.

        Raises:
            Interrupted: stopped before the end; a checkpoint holds the state.
            NotFiniteError: a number that is not finite.
        """
        with SignalWatch() as watch, self.steps(watch, stop_at=stop_at) as steps:
            for _ in steps:
                pass
        return self.finish()

    @contextmanager
    def steps(self, watch: SignalWatch, *, stop_at: int | None = None) -> Iterator[Iterator[None]]:
        """A context that gives the remaining steps; each is taken when it is asked for.

        Args:
            watch: notices the signals that ask to end.
            stop_at: raise `Interrupted` after this step.
        """
        state = self.state
        log = self._log()
        state.world.asked = lambda: watch.number or 0
        progress = Progress(self.name, step=state.step, steps=state.config.steps, shown=self.shown)
        profile = StepProfile(state, steps=self.profile, folder=self.folder)
        try:
            yield self._steps(watch, log, progress, profile, stop_at)
        except PeerError as error:
            said = together.write_alone(self.folder, self.run_folder, state, self._spent())
            error.args = (f"{error} {said}",)
            raise
        finally:
            state.world.asked = nobody_asks
            state.buffer.close()
            profile.close()
            progress.close()
            log.close()

    def finish(self) -> dict[str, Any]:
        """Calibrate, export and measure after the last step; returns the metrics."""
        with kept(
            f"stopped in the final evaluation; all {self.state.step} steps are kept, and it is "
            f"done again by: {self.run_folder.resume_command}"
        ):
            spent = {"seconds": round(self.seconds, 3), "step_ms": self._median_ms()}
            return by_first(
                self.state.world,
                "the final evaluation",
                lambda: finish(
                    self.folder, self.state, spent=spent, selected=self._metrics.selected()
                ),
            )

    def _steps(
        self,
        watch: SignalWatch,
        log: EventLog | NoLog,
        progress: Progress,
        profile: StepProfile,
        stop_at: int | None,
    ) -> Iterator[None]:
        state, config = self.state, self.state.config
        device = state.sae.W_dec.device
        logged, logged_step = time.perf_counter(), state.step
        started = logged - self.seconds
        if log.measured != state.step and held_out.is_due(config, state.step):
            self._measure(log, watch, None)  # the last process was stopped in it
        while state.step < config.steps:
            try:
                step = profile.step(lambda: self._step(device, watch))
            except Interrupted as stop:  # between two steps, where data may take minutes
                raise self._stopped(log, None, stop.number) from None
            self.seconds = time.perf_counter() - started
            last = state.step == config.steps
            if state.step % config.log_every == 0 or last:
                now = time.perf_counter()
                whole = gathered(step, state.world) if state.world.shared else step
                if state.world.first:
                    event = self._metrics.of(
                        whole, steps=state.step - logged_step, seconds=now - logged
                    )
                    log.write(event)
                    progress.show(event)
                logged, logged_step = now, state.step
            progress.advance()
            if held_out.is_due(config, state.step):
                seconds = self._measure(log, watch, step.x)
                started, logged = started + seconds, logged + seconds
            asked = state.world.agreed if state.world.shared else watch.number
            if asked or (state.step == stop_at and not last):
                raise self._stopped(log, step.x, asked or signal.SIGINT)
            if state.step % config.checkpoint_every == 0 or last:
                self._checkpoint(log, step.x)
            del step  # its tensors would stay in memory beside those of the next step
            now = time.perf_counter()
            yield  # to runs beside this one, whose time is not its own
            waited = time.perf_counter() - now
            started, logged = started + waited, logged + waited

    def _measure(self, log: EventLog | NoLog, watch: SignalWatch, x: Tensor | None) -> float:
        """Log the metrics on held-out activations; returns the seconds that this took."""
        started = time.perf_counter()
        try:
            event = self._measured(watch)
        except Interrupted as stop:  # the next process measures
            raise self._stopped(log, x, stop.number) from None
        log.write(event)
        return time.perf_counter() - started

    def _measured(self, watch: SignalWatch) -> dict[str, Any]:
        state = self.state
        if not state.world.shared:
            with watch.at_once():
                return held_out.measure(state)
        upcoming = held_out.upcoming(state)
        what = "the metrics on held-out activations"
        return by_first(state.world, what, lambda: held_out.measure(state, upcoming))

    def _log(self) -> EventLog | NoLog:
        """Returns the log, which process 0 alone writes."""
        world, step = self.state.world, self.state.step
        opened: list[EventLog] = []

        def open_log() -> int:
            opened.append(EventLog(self.folder.metrics, keep_until=step))
            return opened[0].measured

        measured = by_first(world, "the log", open_log)
        return opened[0] if opened else NoLog(measured)

    def _stopped(self, log: EventLog | NoLog, x: Tensor | None, number: int) -> Interrupted:
        """Save the state between two steps, and say how to resume."""
        step, resume = self.state.step, f"resume with: {self.run_folder.resume_command}"
        if step == 0:
            return Interrupted(f"stopped before the first step; {resume}", number=number)
        self._checkpoint(log, x)
        said = f"stopped after step {step} of {self.state.config.steps}, which is kept; {resume}"
        return Interrupted(said, number=number)

    def _step(self, device: torch.device, watch: SignalWatch) -> Step:
        self._read()
        before = self.state.buffer.cursor
        batch = self._batch(watch)
        x, target = (None if t is None else t.to(device, non_blocking=True) for t in batch)
        assert x is not None
        started = time.perf_counter()
        try:
            take = divided_step if self.state.world.shared else train_step
            step = take(self.state, x, target)
            self.step_seconds.append(time.perf_counter() - started)
            return step
        except NotFiniteError as error:
            set_aside(error, self.state, self.folder)
            raise
        except PeerError:  # this step was not taken
            self.state.buffer.go_back(before)
            raise

    def _batch(self, watch: SignalWatch) -> Batch:
        """Returns the next batch; one process can stop anywhere in it, several between blocks."""
        state = self.state
        state.world.step = state.step
        more = state.config.steps - state.step - 1
        with span("data"), nullcontext() if state.world.shared else watch.at_once():
            return state.buffer.next_batch(more=more)

    def _read(self) -> None:
        """Look at the outcome of the step before, where a GPU has it and the host has not."""
        try:
            check_unread(self.state)
        except NotFiniteError as error:
            set_aside(error, self.state, self.folder)
            raise

    def _checkpoint(self, log: EventLog | NoLog, x: Tensor | None) -> None:
        self._read()
        step = self.state.step
        by_first(self.state.world, f"the checkpoint of step {step}", lambda: self._save(log, x))

    def _save(self, log: EventLog | NoLog, x: Tensor | None) -> None:
        tensors = {k: v.detach() for k, v in self.state.tensors().items()}
        try:
            check_storable(self.state.step, tensors, x)
        except NotFiniteError as error:
            set_aside(error, self.state, self.folder)
            raise
        log.sync()
        together.write(self.folder, self.state, tensors, self._spent())

    def _spent(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "step_ms": self._median_ms()}

    def _median_ms(self) -> float | None:
        """Median time of this process's latest steps, without data, log and checkpoints."""
        timed = self.step_seconds
        return round(1000 * statistics.median(timed), 4) if timed else self._step_ms
