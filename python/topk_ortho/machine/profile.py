"""`--profile N`: where the time of a step goes, and a trace of its last steps.

While it watches, the functions that a step calls are replaced by ones that look at the clock; the
step itself knows nothing of it and costs nothing when it does not watch. A span's time is its own:
what it calls is counted where it belongs, so that the phases and `other` add up to the step. On a
CUDA device every span ends with a synchronisation, without which kernels would be counted where
they are waited for: the sum is then more than an undisturbed step takes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from topk_ortho.constraint import penalty
from topk_ortho.constraint import selection as pairs
from topk_ortho.constraint.history import HistoryRecorder, PairHistory
from topk_ortho.constraint.penalty.cosine import PairCosine
from topk_ortho.constraint.penalty.native import NativePairCosine, NativePairPenalty
from topk_ortho.constraint.selection import topk
from topk_ortho.training import losses, step
from topk_ortho.training.folder import RunFolder
from topk_ortho.training.state import TrainState

T = TypeVar("T")
PHASES = ("data", "forward", "backward", "scores", "selection", "penalty", "optimiser", "history")
BACKGROUND = "history thread"
WARM_UP = 3
TRACED = 5
TRACE = "trace.json.gz"


def spans(state: TrainState) -> list[tuple[Any, str, str]]:
    """`(owner, attribute, phase)` of every function that is watched."""
    optimiser = "optimiser"
    found: list[tuple[Any, str, str]] = [(state.buffer, "next", "data")]
    found += [(state.sae, "forward", "forward"), (torch.autograd, "backward", "backward")]
    found += [(losses, name, "forward") for name in ("reconstruction", "sparsity", "aux_k")]
    found += [(step, "step_inputs", "scores"), (pairs.PairSelector, "__call__", "scores")]
    for collector in (topk.RustCollector, topk.TorchCollector):
        found += [(collector, name, "selection") for name in ("push", "finish")]
    found += [(penalty.OrthogonalityPenalty, "__call__", "penalty")]
    functions = (NativePairPenalty, NativePairCosine, PairCosine)
    found += [(function, "backward", "penalty") for function in functions]
    found += [(HistoryRecorder, name, "history") for name in ("record", "settled")]
    found += [(PairHistory, "observe", BACKGROUND), (state.optimizer, "step", optimiser)]
    clipping = ("get_total_norm", "clip_grads_with_norm_")
    found += [(torch.nn.utils, name, optimiser) for name in clipping]
    names = ("remove_parallel_gradient_", "normalise_decoder_")
    return found + [(state.sae, name, optimiser) for name in names]


class Clock:
    """Time by phase, each span without what it calls."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()
        self._main = threading.get_ident()
        self._open: dict[int, list[str]] = {self._main: []}

    def watch(self, phase: str, function: Callable[..., T]) -> Callable[..., T]:
        """`function`, and its time added to `phase`."""

        def watched(*args: Any, **kwargs: Any) -> T:
            outside = self._enter(phase)
            start = time.perf_counter()
            try:
                with torch.profiler.record_function(f"topk_ortho: {phase}"):
                    return function(*args, **kwargs)
            finally:
                if phase != BACKGROUND:
                    self._synchronise()
                self._leave(phase, outside, time.perf_counter() - start)

        return watched

    def read(self) -> dict[str, float]:
        """Seconds by phase so far."""
        with self._lock:
            return dict(self.seconds)

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _enter(self, phase: str) -> str | None:
        """The phase that this one's time is taken from, None for none."""
        with self._lock:
            mine = self._open.setdefault(threading.get_ident(), [])
            # On CUDA the backward pass has a thread of its own, which the main one waits for.
            around = mine or (self._open[self._main] if phase != BACKGROUND else [])
            outside = around[-1] if around else None
            mine.append(phase)
            return outside

    def _leave(self, phase: str, outside: str | None, seconds: float) -> None:
        with self._lock:
            self._open[threading.get_ident()].pop()
            self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
            if outside is not None:
                self.seconds[outside] = self.seconds.get(outside, 0.0) - seconds


class StepProfile:
    """Watches `steps` steps after a short warm-up, then writes and prints what it saw.

    Args:
        state: the run.
        steps: how many to watch, fewer where the run has fewer left; 0 for none.
        folder: `trace.json.gz` and `profile.json` go there.
    """

    def __init__(self, state: TrainState, *, steps: int, folder: RunFolder):
        self.state, self.folder = state, folder
        left = state.config.steps - state.step
        self.warm_up = max(0, min(WARM_UP, left - 2))
        self.steps = min(steps, left - self.warm_up)
        self.traced = min(TRACED, max(1, self.steps // 4))
        self.seen = 0
        self.times: list[dict[str, float]] = []
        self._clock = Clock(state.sae.W_dec.device)
        self._replaced: list[tuple[Any, str, Any]] = []
        self._trace: torch.profiler.profile | None = None

    def step(self, run: Callable[[], T]) -> T:
        """Run one step, watched if it is one of the steps to watch."""
        self.seen += 1
        watched = self.seen - self.warm_up
        if not 0 < watched <= self.steps:
            return run()
        if not self._replaced:
            self._replaced = _replace(self.state, self._clock)
        if watched > self.steps - self.traced and self._trace is None:
            self._trace = self._start_trace()
        before = self._clock.read()
        result = self._clock.watch("other", run)()
        after = self._clock.read()
        self.times.append({name: s - before.get(name, 0.0) for name, s in after.items()})
        if watched == self.steps:
            self.close()
        return result

    def close(self) -> None:
        """Write and print; also where the run ended early. Does nothing a second time."""
        _restore(self._replaced)
        self._replaced = []
        if self._trace is not None:
            self._trace.__exit__(None, None, None)
            self._trace.export_chrome_trace(str(self.folder.path / TRACE))
            self._trace = None
        if self.times:
            summary = self.summary()
            self.folder.write_json("profile.json", summary)
            print(f"{table(summary)}\ntrace: {self.folder.path / TRACE}", flush=True)
            self.times = []

    def summary(self) -> dict[str, Any]:
        """Mean milliseconds by phase, of the steps without a trace if there are any."""
        times = self.times[: -self.traced] or self.times
        first = self.state.step - len(self.times) + 1
        constraint = self.state.constraint
        selection = constraint.selection if constraint else None
        mean = {
            name: 1000 * sum(t.get(name, 0.0) for t in times) / len(times)
            for name in (*PHASES, "other", BACKGROUND)
        }
        thread = mean.pop(BACKGROUND)
        return {
            "first_step": first,
            "steps": len(times),
            "step_ms": sum(mean.values()),
            "phases_ms": mean,
            "history_thread_ms": thread,
            "path": selection.path if selection else None,
        }

    def _start_trace(self) -> torch.profiler.profile:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.state.sae.W_dec.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        trace = torch.profiler.profile(activities=activities)
        trace.__enter__()
        return trace


def table(summary: dict[str, Any]) -> str:
    """One line per phase."""
    total = summary["step_ms"]
    lines = [f"profile: {summary['steps']} steps from step {summary['first_step']}, "
             f"{total:.3f} ms each"]  # fmt: skip
    for name, ms in summary["phases_ms"].items():
        note = ""
        if name == "selection" and not ms and summary["path"] == "native":
            note = "  (in one pass with the scores, in Rust)"
        if name == "history" and summary["history_thread_ms"]:
            note = f"  (waiting; {summary['history_thread_ms']:.3f} ms in its own thread)"
        lines.append(f"  {name:<10}{ms:>10.3f} ms{100 * ms / total:>7.1f} %{note}")
    return "\n".join(lines)


def _replace(state: TrainState, clock: Clock) -> list[tuple[Any, str, Any]]:
    """Put a watched function in the place of each; what was there, None where it was inherited."""
    replaced = []
    for owner, name, phase in spans(state):
        own = vars(owner).get(name)
        function = clock.watch(phase, getattr(owner, name))
        static = isinstance(own, staticmethod)
        replaced.append((owner, name, own))
        setattr(owner, name, staticmethod(function) if static else function)
    return replaced


def _restore(replaced: list[tuple[Any, str, Any]]) -> None:
    for owner, name, own in replaced:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
