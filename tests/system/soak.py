"""A long run of tiny steps with history, log and checkpoints on, and what its log says of it."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import environment
from tests.system.tiny_run import events, over, words

LOG_EVERY, CHECKPOINT_EVERY = 100, 500
OPTIONS = words(
    "--batch-size 16 --sae.d-sae 48 --sae.k 3 --pairs.per-feature 1 --eval-samples 256 "
    "--buffer-rows 4096 --synthetic.d-in 12 --synthetic.roots 3 --synthetic.children 2 "
    f"--synthetic.independent 9 --log-every {LOG_EVERY} --checkpoint-every {CHECKPOINT_EVERY} "
    "--device cpu --threads 1"
)
MOST_GROWTH, MOST_SLOWDOWN = 0.02, 1.5


@dataclass(frozen=True)
class Soak:
    """What a log says of a run.

    Attributes:
        growth: largest resident set after the first tenth over the smallest there, less 1.
        slowdown: median step time of the last tenth over that of the first.
        step_ms: that of the first tenth, log and checkpoints included.
        memory: bytes, the largest resident set.
    """

    growth: float
    slowdown: float
    step_ms: float
    memory: int

    @classmethod
    def of(cls, log: Sequence[dict[str, Any]], *, batch_size: int) -> Soak:
        """Of the lines of `metrics.jsonl`, ten or more."""
        tenth = len(log) // 10
        memory = [line["memory_allocated"] for line in log[tenth:]]
        seconds = [batch_size / line["tokens_per_second"] for line in log]
        first, last = statistics.median(seconds[:tenth]), statistics.median(seconds[-tenth:])
        return cls(
            growth=max(memory) / min(memory) - 1,
            slowdown=last / first,
            step_ms=1000 * first,
            memory=max(memory),
        )

    def complaints(self) -> list[str]:
        """What is not as promised."""
        out = []
        if self.growth > MOST_GROWTH:
            out.append(f"memory grew by {self.growth:.1%}; at most {MOST_GROWTH:.0%} is promised")
        if self.slowdown > MOST_SLOWDOWN:
            out.append(f"a step takes {self.slowdown:.2f} times as long at the end")
        return out

    def __str__(self) -> str:
        return (
            f"{self.step_ms:.2f} ms a step; at the end {self.slowdown:.2f} times that; memory "
            f"{self.memory / 2**20:.0f} MiB, within {self.growth:.2%}"
        )


def train(folder: Path, *, steps: int, timeout: float) -> list[dict[str, Any]]:
    """Train in a process of its own; the lines of its log."""
    done = subprocess.run(
        [sys.executable, "-m", "topk_ortho.train", *over(OPTIONS, "--steps", str(steps),
         "--out", str(folder))],
        env=environment(), capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return events(folder)
