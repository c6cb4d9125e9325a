"""Ctrl-C and SIGTERM end a run after the current step."""

from __future__ import annotations

import shlex
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType


class Interrupted(RuntimeError):
    """A run stopped between two steps, with a checkpoint.

    Attributes:
        exit_code: 130 after Ctrl-C and `--stop-after`, 143 after SIGTERM.
    """

    def __init__(self, *, step: int, steps: int, folder: Path, number: int):
        super().__init__(
            f"stopped after step {step} of {steps}; continue with: "
            f"python -m topk_ortho.train --resume {shlex.quote(str(folder))}"
        )
        self.exit_code = 128 + number


class SignalWatch:
    """Remembers a signal while it is open, in place of dying from it; a second one kills.

    Attributes:
        number: the signal that came, None so far.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.number = number
