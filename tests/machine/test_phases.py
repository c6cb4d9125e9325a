"""Long work shows how far it is; short work shows nothing."""

from __future__ import annotations

import io
import sys
import threading
import time

import pytest

from topk_ortho.machine import phases
from topk_ortho.machine.phases import phase, shown


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "PATIENCE", 0.05)
    monkeypatch.setattr(phases, "LINE_EVERY", 0.1)
    monkeypatch.setattr(phases, "DRAW_EVERY", 0.01)


def test_short_work_shows_nothing(monkeypatch, capsys) -> None:
    monkeypatch.setattr(phases, "PATIENCE", 5.0)
    started = time.perf_counter()
    with phase("tokenising", total=10, unit="tokens") as work:
        work.advance(10)
    assert capsys.readouterr().err == ""
    assert time.perf_counter() - started < 1


def test_lines_say_rate_and_time_left(capsys) -> None:
    with phase("tokenising", total=4_000_000, unit="tokens") as work:
        work.advance(1_000_000)
        time.sleep(0.22)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert lines[0].startswith("tokenising: 1,000,000 of 4,000,000 tokens, ")
    assert "tokens/s, about " in lines[0] and lines[0].endswith(" left")


def test_what_cannot_be_counted_is_shown_too(capsys) -> None:
    with phase("loading the model"):
        time.sleep(0.1)
    assert set(capsys.readouterr().err.splitlines()) == {"loading the model: 1 s so far"}


def test_what_was_there_before_counts_for_no_rate(monkeypatch) -> None:
    monkeypatch.setattr(phases.time, "perf_counter", iter([0.0, 10.0]).__next__)
    work = phases.Phase("writing", total=400, unit="rows")
    work.begin_at(100)
    work.advance(100)
    assert work.line() == "writing: 200 of 400 rows, 10 rows/s, about 20 s left"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "1 s"), (59.4, "59 s"), (125, "2 min 5 s"), (7260, "2 h 1 min")]
)
def test_durations(seconds, said) -> None:
    assert phases.duration(seconds) == said


def test_a_terminal_has_a_bar_that_goes_away(monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with phase("harvesting", total=100, unit="rows") as work:
        for _ in range(10):
            work.advance(10)
            time.sleep(0.02)
    assert "harvesting: " in terminal.getvalue() and "/100" in terminal.getvalue()


def test_only_the_outer_one_is_shown(capsys) -> None:
    with phase("outer"), phase("inner"):
        time.sleep(0.1)
    assert "inner" not in capsys.readouterr().err
    with phase("inner"):
        time.sleep(0.1)
    assert "inner" in capsys.readouterr().err


def test_phases_can_be_switched_off(capsys) -> None:
    with shown(False), shown(True), phase("tokenising"):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_a_closed_terminal_ends_the_display_alone(monkeypatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    with phase("tokenising") as work:
        time.sleep(0.1)
        work.advance()
    assert work.done == 1


def test_an_error_inside_ends_the_thread() -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="inside"), phase("tokenising"):
        raise ValueError("inside")
    assert threading.active_count() == before
