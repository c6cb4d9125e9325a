"""Fillings made in a thread: the same batches, errors at once, and a clean end."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from tests.activations.sources import Endless, Numbered
from tests.activations.test_buffer import SIZES, numbers
from topk_ortho.activations import ShuffleBuffer
from topk_ortho.config import ConfigError


def buffer(source: Numbered | None = None, *, prefetch: bool = True) -> ShuffleBuffer:
    source = source or Numbered(*SIZES)
    return ShuffleBuffer(source, batch_size=4, rows=16, seed=0, prefetch=prefetch)


def threads() -> int:
    return sum(thread.name == "harvest" for thread in threading.enumerate())


def until(condition) -> None:
    """Wait for what a thread is about to do."""
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never happened")


@pytest.mark.parametrize("endless", [True, False])
def test_batches_and_positions_are_the_same(endless: bool) -> None:
    def made(prefetch: bool) -> ShuffleBuffer:
        return buffer(Endless(7) if endless else Numbered(*SIZES), prefetch=prefetch)

    ahead, plain, states = made(True), made(False), []
    for _ in range(60):
        assert torch.equal(ahead.next(), plain.next())
        assert ahead.state_dict() == plain.state_dict()
        states.append((plain.state_dict(), plain.fork()))
    for state, fork in states[::7]:
        ahead.load_state_dict(state)
        assert [numbers(ahead.next()) for _ in range(6)] == [numbers(fork.next()) for _ in range(6)]
    ahead.close()
    assert threads() == 0


def test_the_next_filling_is_read_meanwhile() -> None:
    data = buffer(Endless(8))
    data.next()
    until(lambda: data.source.asked == [0, 1, 2, 3] and threads() == 0)
    for _ in range(4):
        data.next()
    until(lambda: data.source.asked == [0, 1, 2, 3, 4, 5] and threads() == 0)
    assert len(data.source.asked) == 6, "one filling ahead at most"


@pytest.mark.parametrize(("more", "read"), [(0, 2), (3, 2), (4, 4), (None, 4)])
def test_what_no_batch_needs_is_not_read(more: int | None, read: int) -> None:
    data = buffer(Endless(8))
    data.next(more=more)
    until(lambda: threads() == 0)
    assert len(data.source.asked) == read


class Failing(Endless):
    """Has no block 2; waits in it for `go`."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.go = threading.Event()

    def block(self, index, split):
        if index == 2:
            assert self.go.wait(10)
            raise ConfigError("row 3 is not finite")
        return super().block(index, split)


@pytest.mark.fault("an error in the thread that reads ahead")
def test_an_error_is_raised_at_the_next_batch() -> None:
    data = buffer(Failing(8))
    data.next()
    assert len(data.next()) == 4
    data.source.go.set()
    until(lambda: threads() == 0)
    for _ in range(2):
        with pytest.raises(ConfigError, match="row 3 is not finite"):
            data.next()
    data.close()


@pytest.mark.fault("an error in the thread that reads ahead")
def test_an_error_ends_the_wait_for_a_filling() -> None:
    data = buffer(Failing(8))
    for _ in range(4):
        data.next()
    threading.Timer(0.1, data.source.go.set).start()
    with pytest.raises(ConfigError, match="row 3 is not finite"):
        data.next()


class Slow(Endless):
    """Counts how many read it at once."""

    reading = 0

    def block(self, index, split):
        self.reading += 1
        assert self.reading == 1
        time.sleep(0.05)
        self.reading -= 1
        return super().block(index, split)


def test_alone_nothing_reads_and_what_was_read_is_kept() -> None:
    data, plain = buffer(Slow(2)), buffer(Endless(2), prefetch=False)
    assert torch.equal(data.next(), plain.next())
    with data.alone():
        assert threads() == 0
        asked = list(data.source.asked)
        data.source.block(0, "eval")
        assert data.source.asked == [*asked, 0]
    for _ in range(8):
        assert torch.equal(data.next(), plain.next())
    data.close()
    assert threads() == 0
    read = data.source.asked
    del read[len(asked)]
    assert read == list(range(len(read))), "no block twice"


def test_it_can_be_closed_at_any_time() -> None:
    for batches in range(7):
        data = buffer(Slow(2))
        for _ in range(batches):
            data.next()
        data.close()
        assert threads() == 0
        data.close()
        assert len(data.next()) == 4
        data.close()
