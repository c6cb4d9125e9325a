"""The progress display of a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from topk_ortho.machine.phases import duration

LINES_PER_RUN = 5
LINE_EVERY = 30.0
"""Seconds after which a line is due in any case where there is no terminal."""


class Progress:
    """A progress bar on a terminal; elsewhere a line every fifth of the run, and every 30 seconds
    with the time left.

    A terminal that is closed ends the display, not the run.
    """

    def __init__(self, name: str, *, step: int, steps: int, shown: bool):
        self.name, self.steps, self.shown = name, steps, shown
        self._said = self._first = step
        self._started = self._said_at = time.monotonic()
        self._bar = (
            tqdm(total=steps, initial=step, desc=name, unit="step", dynamic_ncols=True)
            if shown and sys.stderr.isatty()
            else None
        )

    def advance(self) -> None:
        """One step is done."""
        if self._bar is not None:
            with self._while_it_lasts():
                self._bar.update()

    def show(self, event: dict[str, Any]) -> None:
        """Show the metrics of a logged step."""
        if self._bar is not None:
            with self._while_it_lasts():
                self._bar.set_postfix_str(_figures(event))
        elif self.shown:
            every = max(1, self.steps // LINES_PER_RUN)
            now = time.monotonic()
            late = now - self._said_at >= LINE_EVERY
            if late or event["step"] // every > self._said // every:
                self._said, self._said_at = event["step"], now
                left = self._left(event["step"], now)
                line = f"{self.name}: step {event['step']}/{self.steps}  {_figures(event)}{left}"
                with self._while_it_lasts():
                    print(line, file=sys.stderr, flush=True)

    def _left(self, step: int, now: float) -> str:
        """Returns the time left, where a run takes longer than a line is apart."""
        seconds, steps = now - self._started, step - self._first
        if seconds < LINE_EVERY or steps <= 0 or step >= self.steps:
            return ""
        return f"  about {duration(seconds * (self.steps - step) / steps)} left"

    def close(self) -> None:
        if self._bar is not None:
            with self._while_it_lasts():
                self._bar.close()

    @contextmanager
    def _while_it_lasts(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._bar, self.shown = None, False


def _figures(e: dict[str, Any]) -> str:
    explained = e["explained_variance"]
    parts = [
        f"loss {e['loss']:.4g}",
        f"L0 {e['l0']:.3g}",
        "EV -" if explained is None else f"EV {explained:.3f}",
        f"orthogonality {e['orthogonality']:.3g}",
        f"pairs {e['pairs']}",
        f"{e['tokens_per_second']:,.0f} tok/s",
    ]
    return "  ".join(parts)
