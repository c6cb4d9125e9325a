"""Signals become one exception, once, and what was there before comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.conftest import environment
from topk_ortho.machine.interrupt import Interrupted, SignalWatch, kept, number_of


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_a_loop_finds_the_signal_when_it_looks() -> None:
    with SignalWatch() as watch:
        assert watch.number is None
        send(signal.SIGUSR2)
        assert watch.number == signal.SIGUSR2


def test_elsewhere_it_is_raised_at_once() -> None:
    reached = []
    with pytest.raises(Interrupted) as stop, SignalWatch(at_once=True):
        reached += [send(signal.SIGHUP), "the end"]
    assert not reached
    assert (stop.value.number, stop.value.exit_code, str(stop.value)) == (1, 129, "")


def test_a_loop_may_be_cut_where_it_says_so_also_by_an_earlier_signal() -> None:
    with SignalWatch() as watch:
        reached = []
        with pytest.raises(Interrupted), watch.at_once():
            reached += [send(signal.SIGTERM), "the end"]
        with pytest.raises(Interrupted), watch.at_once():
            reached += ["inside"]
        assert not reached
        assert watch.number == signal.SIGTERM


def test_what_was_there_comes_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    with SignalWatch(at_once=True), SignalWatch():
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before


def test_signals_in_a_row_are_one_request() -> None:
    """A shell and the terminal both send SIGHUP, and a batch system SIGTERM soon after SIGUSR1."""
    with SignalWatch(at_once=True):
        with SignalWatch() as watch:
            for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGINT):
                send(number)
        send(signal.SIGHUP)  # nor does it cut short what the first one has led to
        assert watch.number == signal.SIGINT


def test_a_request_that_got_lost_may_be_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topk_ortho.machine.interrupt.ONE_REQUEST", 0.0)
    with SignalWatch(at_once=True):
        for _ in range(2):
            with pytest.raises(Interrupted):
                send(signal.SIGTERM)


def test_a_second_ctrl_c_kills() -> None:
    program = (
        "import os, signal, time\n"
        "from topk_ortho.machine.interrupt import SignalWatch\n"
        "with SignalWatch() as watch:\n"
        "    os.kill(os.getpid(), signal.SIGINT); time.sleep(.6); print(watch.number, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print('here', flush=True); time.sleep(.6)\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('not here')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, b"2\nhere\n")


def test_other_threads_are_left_alone() -> None:
    found = []

    def look() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with SignalWatch(at_once=True) as watch:
            found.append((signal.getsignal(signal.SIGTERM) is before, watch.number))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [(True, None)]


def test_the_innermost_sentence_counts_unless_an_outer_one_insists() -> None:
    with pytest.raises(Interrupted, match="inner") as stop, kept("outer"), kept("inner"):
        raise Interrupted(number=signal.SIGTERM)
    assert stop.value.exit_code == 143
    with pytest.raises(Interrupted, match="outer"), kept("outer", always=True), kept("inner"):
        raise KeyboardInterrupt


def test_nothing_that_catches_errors_catches_it() -> None:
    assert not issubclass(Interrupted, Exception)


@pytest.mark.parametrize(
    ("code", "number"),
    [(130, 2), (143, 15), (-1, 1), (-9, None), (137, None), (1, None), (0, None)],
)
def test_exit_codes_tell_who_was_asked_to_end(code: int, number: int | None) -> None:
    assert number_of(code) == number


def test_it_loads_no_torch() -> None:
    program = "import sys, topk_ortho.machine.interrupt as _; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True)
    assert done.stdout == b"False\n"
