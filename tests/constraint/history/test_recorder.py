"""The recorder: in order, nothing lost, errors told, the same whatever the timing."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from topk_ortho.constraint.history import HistoryRecorder, PairHistory


class SlowHistory:
    """Stands in for a `PairHistory`; waits for `gate`, and fails at one step."""

    def __init__(self, *, fails_at: int | None = None):
        self.gate = threading.Event()
        self.gate.set()
        self.fails_at = fails_at
        self.seen: list[int] = []
        self.threads: set[str] = set()

    def observe(self, step: int, i: Any, j: Any) -> None:
        assert self.gate.wait(10)
        if step == self.fails_at:
            raise ValueError(f"step {step} is bad")
        self.seen.append(step)
        self.threads.add(threading.current_thread().name)


def started(history: Any, *, queue_size: int = 8) -> HistoryRecorder:
    return HistoryRecorder(history, queue_size=queue_size)


def test_order_is_kept_and_observing_is_off_the_callers_thread() -> None:
    history = SlowHistory()
    recorder = started(history)
    for step in range(100):
        recorder.record(step, [0], [1])
    assert recorder.settled() is history
    assert history.seen == list(range(100))
    assert history.threads == {"pair-history"}
    assert threading.current_thread().name not in history.threads
    recorder.close()


def test_a_full_queue_waits_and_drops_nothing() -> None:
    history = SlowHistory()
    history.gate.clear()
    recorder = started(history, queue_size=2)
    returned: list[int] = []

    def work() -> None:
        for step in range(6):
            recorder.record(step, [0], [1])
            returned.append(step)

    caller = threading.Thread(target=work, daemon=True)
    caller.start()
    deadline = time.monotonic() + 60
    while len(returned) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    caller.join(0.1)
    assert caller.is_alive()
    assert returned == [0, 1, 2]  # one is being observed, two wait
    history.gate.set()
    caller.join(10)
    assert not caller.is_alive()
    recorder.settled()
    assert history.seen == list(range(6))
    recorder.close()


def test_settled_waits_for_what_was_recorded() -> None:
    history = SlowHistory()
    history.gate.clear()
    recorder = started(history)
    for step in range(5):
        recorder.record(step, [0], [1])
    threading.Timer(0.1, history.gate.set).start()
    assert history.seen == []
    recorder.settled()
    assert history.seen == list(range(5))
    recorder.close()


def test_close_observes_what_is_queued_and_ends_the_thread() -> None:
    history = SlowHistory()
    history.gate.clear()
    recorder = started(history)
    for step in range(5):
        recorder.record(step, [0], [1])
    threading.Timer(0.05, history.gate.set).start()
    assert recorder.close() is history
    assert history.seen == list(range(5))
    assert not recorder._thread.is_alive()
    assert recorder.close() is history  # twice is once
    assert recorder.settled() is history


def test_recording_after_close_is_refused_and_does_not_hang() -> None:
    history = SlowHistory()
    recorder = started(history, queue_size=1)
    recorder.close()
    for step in range(3):
        with pytest.raises(RuntimeError, match="closed"):
            recorder.record(step, [0], [1])
    assert recorder.settled() is history
    assert history.seen == []


@pytest.mark.fault("an error in the history's thread")
@pytest.mark.parametrize("call", ["record", "settled", "ema", "close"])
def test_an_error_of_the_thread_is_raised_in_the_caller(call: str) -> None:
    history = SlowHistory(fails_at=3)
    recorder = started(history, queue_size=64)
    for step in range(4):
        recorder.record(step, [0], [1])
    recorder._queue.join()
    calls = {
        "record": lambda: recorder.record(4, [0], [1]),
        "settled": recorder.settled,
        "ema": lambda: recorder.ema([0], [1]),
        "close": recorder.close,
    }
    for _ in range(2):  # it does not go away by being told
        with pytest.raises(ValueError, match="step 3 is bad"):
            calls[call]()
    with pytest.raises(ValueError, match="step 3 is bad"):
        recorder.close()
    assert history.seen == [0, 1, 2]
    assert not recorder._thread.is_alive()


@pytest.mark.fault("an error in the history's thread")
def test_nothing_is_observed_behind_an_error_and_nobody_waits() -> None:
    history = SlowHistory(fails_at=1)
    history.gate.clear()
    recorder = started(history, queue_size=64)
    for step in range(20):
        recorder.record(step, [0], [1])
    history.gate.set()
    with pytest.raises(ValueError, match="step 1 is bad"):
        recorder.settled()
    assert history.seen == [0]


def test_a_refusal_of_the_real_history_arrives() -> None:
    recorder = started(PairHistory(capacity=8))
    recorder.record(5, [0], [1])
    recorder.record(5, [0], [1])
    with pytest.raises(ValueError, match="step"):
        recorder.settled()


def selections(n: int = 60) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    i, j = torch.triu_indices(12, 12, 1)
    chosen = []
    for step in range(n):
        at = torch.randperm(len(i), generator=generator)[:15]
        chosen.append((step, i[at], j[at]))
    return chosen


class Dawdling(PairHistory):
    """The real one with random waits before every observation."""

    def observe(self, step: int, i: Any, j: Any) -> None:
        time.sleep(random.random() * 0.003)
        super().observe(step, i, j)


@pytest.mark.parametrize("queue_size", [1, 64])
def test_what_was_observed_is_no_matter_of_timing(queue_size: int) -> None:
    expected = PairHistory(capacity=32, decay=0.9)
    recorder = started(Dawdling(capacity=32, decay=0.9), queue_size=queue_size)
    for step, i, j in selections():
        np.testing.assert_array_equal(recorder.ema(i, j), expected.ema(i, j))
        recorder.record(step, i, j)
        expected.observe(step, i, j)
        if random.random() < 0.3:
            time.sleep(random.random() * 0.003)
    assert recorder.close().to_bytes() == expected.to_bytes()
    unasked = started(Dawdling(capacity=32, decay=0.9), queue_size=queue_size)
    for step, i, j in selections():
        unasked.record(step, i, j)
    assert unasked.close().to_bytes() == expected.to_bytes()
