"""Training steps in separate processes, taken in turn.

A worker prepares itself, prints `@ready`, and then, for every line with a number on its standard
input, takes that many steps and prints `@` and their seconds as JSON. One works at a time; the
others sleep, so that processes are compared as `machine.interleave` compares callables.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch


def serve(step: Callable[[int], object], *, warmup: int, device: str = "cpu") -> None:
    """The worker's side: `step(number)` is one training step."""

    def taken(number: int) -> float:
        began = time.perf_counter()
        step(number)
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    number = 0
    for _ in range(warmup):
        taken(number)
        number += 1
    print("@ready", flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            seconds.append(taken(number))
            number += 1
        print("@" + json.dumps(seconds), flush=True)


class Worker:
    """The other side.

    Args:
        name: what the table calls it.
        command: the program and its arguments.
        environment: of the process.
    """

    def __init__(self, name: str, command: list[str], environment: dict[str, str]):
        self.name = name
        self.seconds: list[list[float]] = []
        self._errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
        )

    def wait(self) -> None:
        """Until it is ready."""
        self._answer()

    def round(self, steps: int) -> None:
        """Take so many steps and note their seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        self.seconds.append(json.loads(self._answer()))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def peak_mb(self) -> float | None:
        """Largest resident set so far, in MB."""
        status = Path(f"/proc/{self._process.pid}/status")
        if not status.exists():
            return None
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
        return None

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("@"):
                return line[1:]
        self._errors.seek(0)
        raise SystemExit(f"{self.name} ended early:\n{self._errors.read()[-4000:]}")
