"""Long runs: memory and the time of a step stay what they were, and nothing is left lying about."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.system import soak
from tests.system.tiny_run import tiny
from topk_ortho.constraint.history import PairHistory
from topk_ortho.training import loop, train

FILES = {
    "config.toml", "manifest.json", "metrics.jsonl", "checkpoints", "sae", "history.bin",
    "stability.json", "ground_truth.json", "features.json", "result.json", "plots",
}  # fmt: skip


@pytest.mark.slow
def test_a_short_run_leaves_what_a_long_one_does(tmp_path: Path) -> None:
    check_files(tmp_path / "run", soak.train(tmp_path / "run", steps=1000, timeout=300), steps=1000)


@pytest.mark.slow
def test_200_000_steps(tmp_path: Path) -> None:
    log = soak.train(tmp_path / "run", steps=200_000, timeout=12 * 3600)
    check_files(tmp_path / "run", log, steps=200_000)
    figures = soak.Soak.of(log, batch_size=16)
    print(f"\n200,000 steps: {figures}")
    assert not figures.complaints(), figures


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_soak_runs_this() -> None:
    root = Path(__file__).resolve().parents[2]
    said = subprocess.run(["make", "-n", "soak"], cwd=root, capture_output=True, text=True)
    assert "-m pytest -m slow -s tests/system/test_soak.py" in said.stdout


def check_files(run: Path, log: list[dict[str, Any]], *, steps: int) -> None:
    assert {path.name for path in run.iterdir()} - {".lock"} == FILES
    kept = {f"step_{steps - soak.CHECKPOINT_EVERY}", f"step_{steps}"}
    assert {path.name for path in (run / "checkpoints").iterdir()} == kept
    assert [line["step"] for line in log] == [*range(soak.LOG_EVERY, steps + 1, soak.LOG_EVERY)]
    lines = (run / "metrics.jsonl").stat().st_size / len(log)
    assert lines < 2000, "bytes a line"
    history = PairHistory.from_bytes((run / "history.bin").read_bytes())
    assert history.observations == steps


def lines(memory: list[int], speed: list[float]) -> list[dict[str, Any]]:
    return [
        {"memory_allocated": held, "tokens_per_second": rate}
        for held, rate in zip(memory, speed, strict=True)
    ]


def test_growth_and_slowing_down_are_seen() -> None:
    flat, steady = [10_000] * 100, [1000.0] * 100
    assert not soak.Soak.of(lines(flat, steady), batch_size=16).complaints()
    warming_up = [5_000] * 10 + [10_000] * 90
    assert not soak.Soak.of(lines(warming_up, steady), batch_size=16).complaints()
    leaking = [10_000 + 3 * n for n in range(100)]
    (said,) = soak.Soak.of(lines(leaking, steady), batch_size=16).complaints()
    assert said.startswith("memory grew by 2.7%")
    slower = [1000.0] * 90 + [600.0] * 10
    (said,) = soak.Soak.of(lines(flat, slower), batch_size=16).complaints()
    assert said.startswith("a step takes 1.67 times as long")


def test_step_times_are_kept_for_the_latest_steps_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    finish = loop.Loop.finish
    monkeypatch.setattr(loop, "TIMED_STEPS", 7)
    monkeypatch.setattr(
        loop.Loop, "finish", lambda self: kept.append(len(self.step_seconds)) or finish(self)
    )
    train(tiny(), tmp_path / "run", progress=False)
    assert kept == [7]
