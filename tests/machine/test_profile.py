"""`--profile N`: phases that add up to the step, nothing left behind, nothing changed."""

from __future__ import annotations

import gzip
import json
import threading
import time
import timeit
from pathlib import Path

import pytest
import torch

from tests.system.tiny_run import assert_same, tiny
from tests.training.states import state
from topk_ortho.machine import spans
from topk_ortho.machine.profile import Clock, StepProfile, table
from topk_ortho.machine.spans import BACKGROUND, PHASES, listening, span, spanned
from topk_ortho.training import train
from topk_ortho.training.folder import RunFolder

WIDE = ("--sae.d-sae", "1024")  # sparse enough for the Rust path


def profiled(folder: Path, *options: str, steps: int = 8) -> dict:
    train(tiny(*options), folder, profile=steps, progress=False)
    return json.loads((folder / "profile.json").read_text())


def test_the_phases_of_a_run_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = profiled(tmp_path / "run", *WIDE)
    phases = summary["phases_ms"]
    assert set(phases) == {*PHASES, "other"}
    assert sum(phases.values()) == pytest.approx(summary["step_ms"])
    for name in PHASES:
        assert phases[name] > 0 or name == "selection", name
    assert phases["selection"] == 0 and summary["path"] == "native"
    assert phases["other"] < 0.4 * summary["step_ms"]
    assert (summary["first_step"], summary["steps"]) == (4, 6)
    said = capsys.readouterr().out
    assert said.startswith("profile: 6 steps from step 4, ")
    assert "in one pass with the scores" in said and "trace.json.gz" in said


def test_scores_and_selection_are_told_apart_where_they_are_apart(tmp_path: Path) -> None:
    phases = profiled(tmp_path / "run", "--pairs.criterion", "decoder-cosine")["phases_ms"]
    assert phases["selection"] > 0 and phases["scores"] > 0


def test_the_trace_holds_the_phases(tmp_path: Path) -> None:
    profiled(tmp_path / "run")
    with gzip.open(tmp_path / "run" / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert not list((tmp_path / "run").glob(".*"))
    names = {event.get("name") for event in events}
    for phase in ("data", "forward", "backward", "scores", "penalty", "optimiser", "history"):
        assert f"topk_ortho: {phase}" in names
    assert any(str(name).startswith("aten::") for name in names)


def test_watching_changes_nothing_of_the_run(tmp_path: Path) -> None:
    train(tiny(), tmp_path / "plain", progress=False)
    train(tiny(), tmp_path / "watched", profile=10, progress=False)
    assert_same(tmp_path / "watched", tmp_path / "plain")


def test_nobody_listens_before_between_and_after_watched_steps(tmp_path: Path) -> None:
    s = state()
    watch = StepProfile(s, steps=2, folder=RunFolder(tmp_path))
    s.step = 1
    watch.warm_up = 1
    seen = []
    for _ in range(3):
        watch.step(lambda: seen.append(spans._listener))
        assert spans._listener is None
    assert [listener is not None for listener in seen] == [False, True, True]
    watch = StepProfile(s, steps=2, folder=RunFolder(tmp_path))
    watch.warm_up = 0
    with pytest.raises(ZeroDivisionError):
        watch.step(lambda: 1 / 0)
    assert spans._listener is None
    watch.close()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_of_few_steps_is_still_watched(steps: int, tmp_path: Path) -> None:
    summary = profiled(tmp_path / "run", "--steps", str(steps), "--warmup-steps", "0")
    assert 1 <= summary["steps"] <= steps and summary["step_ms"] > 0
    assert (tmp_path / "run" / "trace.json.gz").exists()


def test_a_run_that_stops_early_writes_what_it_saw(tmp_path: Path) -> None:
    from topk_ortho.training import Interrupted

    with pytest.raises(Interrupted):
        train(tiny(), tmp_path / "run", profile=50, stop_after=6, progress=False)
    assert json.loads((tmp_path / "run" / "profile.json").read_text())["steps"] >= 1


def test_without_it_there_is_no_trace(tmp_path: Path) -> None:
    train(tiny(), tmp_path / "run", progress=False)
    assert not {"profile.json", "trace.json.gz"} & {p.name for p in (tmp_path / "run").iterdir()}


def test_a_span_counts_without_what_it_calls() -> None:
    clock = Clock(torch.device("cpu"))
    inner = spanned("inner")(lambda: time.sleep(0.05))
    with listening(clock), span("outer"):
        time.sleep(0.01)
        inner()
        inner()
    spent = clock.read()
    assert 0.1 <= spent["inner"] < 0.2
    assert 0.01 <= spent["outer"] < 0.05


def in_a_thread(phase: str, seconds: float) -> None:
    thread = threading.Thread(target=spanned(phase)(lambda: time.sleep(seconds)))
    thread.start()
    thread.join()


def test_a_span_in_another_thread_is_taken_from_the_one_that_waits() -> None:
    clock = Clock(torch.device("cpu"))
    with listening(clock), span("backward"):
        in_a_thread("penalty", 0.05)
    spent = clock.read()
    assert spent["penalty"] >= 0.05 > spent["backward"]


def test_the_history_thread_is_taken_from_nobody() -> None:
    clock = Clock(torch.device("cpu"))
    with listening(clock), span("other"):
        in_a_thread(BACKGROUND, 0.02)
    assert clock.read()["other"] >= 0.02


def test_a_span_ends_with_an_error_and_is_told_to_the_listener_that_saw_it_begin() -> None:
    one, other = Clock(torch.device("cpu")), Clock(torch.device("cpu"))
    with listening(one):
        open_span = span("a")
        open_span.__enter__()
    with listening(other):
        open_span.__exit__(None, None, None)
        with pytest.raises(ZeroDivisionError), span("b"):
            raise ZeroDivisionError
    assert (set(one.read()), set(other.read())) == ({"a"}, {"b"})


def test_any_profiler_of_torch_sees_the_phases() -> None:
    with torch.profiler.profile() as seen, span("forward"):
        torch.ones(2).sum()
    assert "topk_ortho: forward" in {event.name for event in seen.events()}


def test_a_span_that_nobody_sees_costs_microseconds_at_most() -> None:
    def ours() -> None:
        with span("forward"):
            pass

    assert min(timeit.repeat(ours, number=10_000, repeat=7)) / 10_000 < 5e-6  # 0.3 when idle


def test_table() -> None:
    lines = table(
        {
            "first_step": 4,
            "steps": 10,
            "step_ms": 10.0,
            "phases_ms": {"data": 1.0, "selection": 0.0, "history": 0.5, "other": 8.5},
            "history_thread_ms": 2.0,
            "path": "native",
        }
    ).splitlines()
    assert lines[0] == "profile: 10 steps from step 4, 10.000 ms each"
    assert lines[1] == "  data           1.000 ms   10.0 %"
    assert lines[2].endswith("(in one pass with the scores, in Rust)")
    assert lines[3].endswith("5.0 %  (waiting; 2.000 ms in its own thread)")
