"""The profiler of `--profile N`: where the time of a step goes, and a trace of the last steps.

A clock listens to the spans of a step (`spans.py`). A span's time is its own: what it calls is
counted separately, so that the phases and `other` add up to the step. On a CUDA device every
span ends with a synchronisation, without which kernels would be counted where they are waited for:
the sum is then more than an undisturbed step takes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from topk_ortho.machine.spans import BACKGROUND, PHASES, listening, span

if TYPE_CHECKING:
    from topk_ortho.training.folder import RunFolder
    from topk_ortho.training.state import TrainState

T = TypeVar("T")
OTHER = "other"
WARM_UP = 3
TRACED = 5
TRACE = "trace.json.gz"


class Clock:
    """Time by phase, each span without the spans inside of it."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()
        self._main = threading.get_ident()
        self._open: dict[int, list[tuple[str, str | None, float]]] = {self._main: []}

    def entered(self, phase: str) -> None:
        """A span begins in this thread."""
        with self._lock:
            mine = self._open.setdefault(threading.get_ident(), [])
            # On CUDA the backward pass has its own thread, which the main one waits for.
            around = mine or (self._open[self._main] if phase != BACKGROUND else [])
            mine.append((phase, around[-1][0] if around else None, time.perf_counter()))

    def left(self, phase: str) -> None:
        """The latest span of this thread ends."""
        if phase != BACKGROUND and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        with self._lock:
            phase, outside, began = self._open[threading.get_ident()].pop()
            self.seconds[phase] = self.seconds.get(phase, 0.0) + now - began
            if outside is not None:
                self.seconds[outside] = self.seconds.get(outside, 0.0) - (now - began)

    def read(self) -> dict[str, float]:
        """Seconds by phase so far."""
        with self._lock:
            return dict(self.seconds)


class StepProfile:
    """A profiler of `steps` steps after a short warm-up, which writes and prints its result.

    Args:
        state: the run.
        steps: how many to profile, fewer where the run has fewer left; 0 for none.
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
        self._trace: torch.profiler.profile | None = None

    def step(self, run: Callable[[], T]) -> T:
        """Run one step, watched if it is one of the steps to watch."""
        self.seen += 1
        watched = self.seen - self.warm_up
        if not 0 < watched <= self.steps:
            return run()
        if watched > self.steps - self.traced and self._trace is None:
            self._trace = self._start_trace()
        before = self._clock.read()
        with listening(self._clock), span(OTHER):
            result = run()
        after = self._clock.read()
        self.times.append({name: s - before.get(name, 0.0) for name, s in after.items()})
        if watched == self.steps:
            self.close()
        return result

    def close(self) -> None:
        """Write and print; also where the run ended early. Does nothing a second time."""
        if self._trace is not None:
            self._trace.__exit__(None, None, None)
            with TemporaryDirectory() as aside:  # torch compresses by the suffix of the name
                written = Path(aside) / TRACE
                self._trace.export_chrome_trace(str(written))
                self.folder.write_bytes(TRACE, written.read_bytes())
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
            for name in (*PHASES, OTHER, BACKGROUND)
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
