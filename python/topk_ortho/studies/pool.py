"""Runs of an ablation in separate processes, several at a time.

A run that fails is noted and the others continue; a process that dies over a run is replaced and
the run tried once more from its checkpoint, then noted as failed. A signal that asks to end
(`machine/interrupt.py`) ends every process after its current step, with a checkpoint.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from topk_ortho.config import TrainConfig
from topk_ortho.config.toml import config_hash, to_table
from topk_ortho.machine.hardware import threads_allowed
from topk_ortho.machine.interrupt import Interrupted, SignalWatch
from topk_ortho.studies.outcome import failed_path
from topk_ortho.training.folder import RunFolder

POLL = 0.2  # seconds between two checks for a signal
DEATHS = 2  # processes that may die over a run before it counts as failed
MODULE = "topk_ortho.studies.worker"
STOPPED = "stopped; every run that had begun has a checkpoint, and the same command resumes them."

Told = Callable[[TrainConfig, str | None], None]


class Worker:
    """One process, and the run it has been given."""

    def __init__(self, root: Path, *, number: int, threads: int) -> None:
        self.config: TrainConfig | None = None
        logs = root / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.log = logs / f"{os.uname().nodename}-{os.getpid()}-{number}.log"
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", MODULE, str(root), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches it through the parent alone
            )

    def give(self, config: TrainConfig) -> None:
        """Have it compute a run."""
        self.config = config
        assert self.process.stdin
        with suppress(BrokenPipeError):  # the end of its output means the same
            self.process.stdin.write(json.dumps(to_table(config)).encode() + b"\n")
            self.process.stdin.flush()

    def answer(self) -> dict | None:
        """Returns the outcome of the run; None where the process is gone."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def end(self) -> int:
        """Close its input, wait for it, and drop an empty log; its exit code."""
        assert self.process.stdin
        assert self.process.stdout
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        code = self.process.wait()
        self.process.stdout.close()
        if self.log.exists() and not self.log.stat().st_size:
            self.log.unlink()
        return code


class Pool:
    """A pool of processes that share the cores.

    Args:
        root: the ablation's folder.
        jobs: processes at a time.
        told: called after every run with its configuration and the reason where it failed.
    """

    def __init__(self, root: Path, *, jobs: int, told: Told) -> None:
        self._root, self._jobs, self._told = root, jobs, told
        self._threads = max(1, threads_allowed() // jobs)
        self._workers: list[Worker] = []
        self._deaths: dict[str, int] = {}
        self._started = 0

    def run(self, configs: Iterable[TrainConfig]) -> None:
        """Compute every run once.

        Raises:
            Interrupted: by a signal, after every process has left a checkpoint.
        """
        waiting = deque(configs)
        with SignalWatch() as watch, selectors.DefaultSelector() as selector:
            try:
                while waiting or self._workers:
                    while waiting and len(self._workers) < self._jobs:
                        worker = self._start()
                        selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
                        worker.give(waiting.popleft())
                    for key, _ in selector.select(POLL):
                        if not self._heard(key.data, waiting, stopping=watch.number is not None):
                            selector.unregister(key.fileobj)
                            self._end(key.data)
                    if watch.number is not None:
                        raise Interrupted(STOPPED, number=watch.number)
            finally:
                for worker in list(self._workers):
                    worker.process.send_signal(signal.SIGTERM)
                for worker in list(self._workers):
                    self._end(worker)

    def _start(self) -> Worker:
        self._started += 1
        worker = Worker(self._root, number=self._started, threads=self._threads)
        self._workers.append(worker)
        return worker

    def _end(self, worker: Worker) -> int:
        self._workers.remove(worker)
        return worker.end()

    def _heard(self, worker: Worker, waiting: deque[TrainConfig], *, stopping: bool) -> bool:
        """Take in an answer and give the next run; whether the process stays."""
        config, answer = worker.config, worker.answer()
        assert config is not None
        if answer is None:
            code = worker.process.wait()
            if not stopping:
                self._died(config, code, waiting)
            return False
        self._told(config, answer["failed"])
        if not waiting or stopping:
            return False
        worker.give(waiting.popleft())
        return True

    def _died(self, config: TrainConfig, code: int, waiting: deque[TrainConfig]) -> None:
        name = config_hash(config)
        self._deaths[name] = self._deaths.get(name, 0) + 1
        if self._deaths[name] < DEATHS:
            waiting.appendleft(config)
            return
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        reason = f"its process ended {how}, twice; {signal_hint(code)}see {self._root / 'logs'}"
        failed = failed_path(self._root, name)
        failed.parent.mkdir(parents=True, exist_ok=True)
        RunFolder(failed.parent).write_json(failed.name, {"reason": reason})
        self._told(config, reason)


def signal_hint(code: int) -> str:
    """Returns a likely cause of an exit code."""
    return "out of memory perhaps, then lower --jobs; " if code == -signal.SIGKILL else ""
