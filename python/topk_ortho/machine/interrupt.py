"""Signals that ask a process to end, and the one exception that they become.

Ctrl-C, SIGTERM, a closed terminal (SIGHUP), what batch systems send before a time limit (SIGUSR1,
SIGUSR2) and the limit of CPU time (SIGXCPU) all mean the same: keep what was done, say what that
is, end. A signal that was being ignored when the process started, as `nohup` has it, stays ignored.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
"""The signals that ask; not every system has all of them."""
ONE_REQUEST = 0.5
"""Seconds within which signals are one request: a shell and a terminal may both send one."""


class Interrupted(KeyboardInterrupt):
    """Stopped on request; the message says what is kept and how to resume, where that is known.

    Attributes:
        number: the signal; SIGINT for Ctrl-C and `--stop-after`.
        exit_code: 128 + `number`, such as 130 after Ctrl-C and 143 after SIGTERM.
    """

    def __init__(self, said: str = "", *, number: int = signal.SIGINT):
        super().__init__(said)
        self.number = int(number)
        self.exit_code = 128 + self.number


class SignalWatch:
    """A context in which a signal that asks to end does not kill the process.

    Does nothing outside of the main thread, which is the only one that may. A second Ctrl-C kills.

    Args:
        at_once: raise `Interrupted` wherever the program is; otherwise the signal is remembered in
            `number`, for a loop that looks between two steps.

    Attributes:
        number: the signal that came, None so far.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.number: int | None = None
        self._at_once = at_once
        self._before: dict[int, Any] = {}
        self._heard = float("-inf")

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():
            _open.append(self)
            for number in _numbers():
                if _may_take(number):
                    self._before[number] = signal.signal(number, _hear)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self in _open:
            _open.remove(self)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `Interrupted` at once inside, also for a signal that came before.

        For what may take long and can be cut anywhere.
        """
        self._at_once = True
        try:
            if self.number is not None:
                raise Interrupted(number=self.number)
            yield
        finally:
            self._at_once = False


_open: list[SignalWatch] = []
"""The watches of the main thread, the innermost last."""


@contextmanager
def kept(said: str, *, always: bool = False) -> Iterator[None]:
    """Have an interruption inside say `said`, unless something further in said more.

    Args:
        said: one sentence: what is kept, and how to resume.
        always: also in place of what was said further in.
    """
    try:
        yield
    except Interrupted as stop:
        if str(stop) and not always:
            raise
        raise Interrupted(said, number=stop.number) from None
    except KeyboardInterrupt:
        raise Interrupted(said) from None


def number_of(exit_code: int) -> int | None:
    """Returns the signal by which a process was asked to end, None where it ended otherwise.

    Args:
        exit_code: 128 + the signal, as a shell has it, or minus the signal, as Python has it.
    """
    number = exit_code - 128 if exit_code > 128 else -exit_code
    return number if number in _numbers() else None


def _numbers() -> list[int]:
    return [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


def _may_take(number: int) -> bool:
    """Returns whether a signal is ours to handle; one that the host program handles is not, except
    for the two that every program knows."""
    handler = signal.getsignal(number)
    if number == signal.SIGINT:  # a shell makes background jobs ignore it, which nobody wants
        return handler is not None
    if number == signal.SIGTERM:
        return handler not in (None, signal.SIG_IGN)
    return handler in (signal.SIG_DFL, _hear)


def _hear(number: int, frame: FrameType | None) -> None:
    watch, now = _open[-1], time.monotonic()
    again, repeated = watch.number is not None, now - watch._heard < ONE_REQUEST
    for each in _open:
        each.number, each._heard = number, now
    if repeated:
        return
    if again and number == signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    if watch._at_once:
        raise Interrupted(number=number)
