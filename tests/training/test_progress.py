"""Lines of a run where there is no terminal: by its length, by time, with the time left."""

from __future__ import annotations

from typing import Any

import pytest

from topk_ortho.training import progress
from topk_ortho.training.progress import Progress


def event(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 1.0, "l0": 8.0, "explained_variance": 0.5, "orthogonality": 0.01,
            "pairs": 9, "tokens_per_second": 100.0}  # fmt: skip


def test_a_slow_run_has_a_line_every_half_minute_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown = Progress("none", step=0, steps=1000, shown=True)
    for step in range(10, 110, 10):
        clock[0] += 10
        shown.show(event(step))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines] == ["30/1000", "60/1000", "90/1000"]
    assert lines[0].endswith("orthogonality 0.01  pairs 9  100 tok/s  about 16 min 10 s left")


def test_a_quick_run_has_a_line_for_each_fifth(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress("none", step=0, steps=100, shown=True)
    for step in range(10, 110, 10):
        shown.show(event(step))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines] == [f"{n}/100" for n in (20, 40, 60, 80, 100)]
    assert not any("left" in line for line in lines)
