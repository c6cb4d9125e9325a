"""The progress of work before and between training steps: tokenising, loading, filling a buffer.

What takes less than two seconds shows nothing. After that a terminal has a bar, and anything else
lines, at most one every ten seconds, with the rate and the time left where they are known. A
thread draws, so that work which cannot be counted, such as loading a model, is shown as well.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

PATIENCE = 2.0
"""Seconds that nothing is shown."""
LINE_EVERY = 10.0
"""Seconds between two lines where there is no terminal."""
DRAW_EVERY = 0.25
"""Seconds between two states of a bar."""

_hidden = threading.Event()
_busy = threading.Lock()
"""Held by the phase that is shown: one inside another, or beside it, shows nothing."""


class Phase:
    """One piece of work, and how much of it is done.

    Attributes:
        done: units so far.
        total: units in all, None where that is not known.
    """

    def __init__(self, name: str, *, total: int | None, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self._first = 0  # units that were there before
        self._started = time.perf_counter()

    def advance(self, units: int = 1) -> None:
        """So many more units are done."""
        self.done += units

    def begin_at(self, done: int) -> None:
        """Units that were done before this phase, and count for no rate."""
        self.done = self._first = done

    def line(self) -> str:
        """Returns how far it is, in words."""
        seconds = time.perf_counter() - self._started
        if not self.done:
            return f"{self.name}: {duration(seconds)} so far"
        rate = (self.done - self._first) / max(seconds, 1e-9)
        of = f" of {self.total:,}" if self.total else ""
        said = f"{self.name}: {self.done:,}{of} {self.unit}, {rate:,.3g} {self.unit}/s"
        if rate >= 1000:
            said = f"{self.name}: {self.done:,}{of} {self.unit}, {rate:,.0f} {self.unit}/s"
        if self.total and rate and self.done < self.total:
            said += f", about {duration((self.total - self.done) / rate)} left"
        return said


@contextmanager
def phase(name: str, *, total: int | None = None, unit: str = "rows") -> Iterator[Phase]:
    """Show the progress of what is done inside, on stderr.

    Args:
        name: what is being done, such as `tokenising`.
        total: units in all, where that is known.
        unit: what is counted, in the plural.
    """
    current = Phase(name, total=total, unit=unit)
    if _hidden.is_set() or not _busy.acquire(blocking=False):
        yield current
        return
    over = threading.Event()
    drawing = threading.Thread(target=_draw, args=(current, over), daemon=True)
    try:
        drawing.start()
        yield current
    finally:
        over.set()
        drawing.join()
        _busy.release()


@contextmanager
def shown(whether: bool) -> Iterator[None]:
    """Show the phases inside, or none of them; inside of one that shows none, none are shown."""
    if whether or _hidden.is_set():
        yield
        return
    _hidden.set()
    try:
        yield
    finally:
        _hidden.clear()


def _draw(current: Phase, over: threading.Event) -> None:
    if over.wait(PATIENCE):
        return
    with suppress(OSError, ValueError):  # a terminal that is closed ends the display alone
        if sys.stderr.isatty():
            _bar(current, over)
        else:
            _lines(current, over)


def _lines(current: Phase, over: threading.Event) -> None:
    while True:
        print(current.line(), file=sys.stderr, flush=True)
        if over.wait(LINE_EVERY):
            return


def _bar(current: Phase, over: threading.Event) -> None:
    from tqdm import tqdm

    bar: Any = tqdm(
        total=current.total,
        initial=current._first,
        desc=current.name,
        unit=f" {current.unit}",
        unit_scale=True,
        smoothing=0,  # the time left follows from the whole phase
        dynamic_ncols=True,
        leave=False,
    )
    bar.start_t -= PATIENCE
    try:
        while True:
            bar.n = current.done
            bar.refresh()
            if over.wait(DRAW_EVERY):
                return
    finally:
        bar.close()


def duration(seconds: float) -> str:
    """Returns a duration in its two largest units, such as `2 min 5 s`."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
