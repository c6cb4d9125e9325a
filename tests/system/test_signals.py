"""A signal that asks to end does so in every phase, keeps what was done and says how to resume."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import topk_ortho.train as command
from tests.conftest import environment
from tests.system.tiny_run import OPTIONS, assert_same, over, tiny, words
from topk_ortho import cli
from topk_ortho.activations.buffer import ShuffleBuffer
from topk_ortho.machine.interrupt import NAMES, Interrupted
from topk_ortho.training import loop, resume, train
from topk_ortho.training.evaluation import evaluate

SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("topk_ortho.training.evaluation.CALIBRATION_ROWS", 2048)
        train(tiny(), folder, progress=False)
    return folder


def asked(number: int) -> Callable[..., None]:
    """A function in whose place the signal comes."""

    def stop(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)

    return stop


def at_step(patch: pytest.MonkeyPatch, wanted: int, act: Callable[[], None]) -> None:
    step = loop.train_step

    def acting(state, x, *target):
        if state.step == wanted:
            act()
        return step(state, x, *target)

    patch.setattr(loop, "train_step", acting)


@pytest.mark.fault("a signal that asks to end")
@pytest.mark.parametrize("number", SIGNALS)
def test_it_ends_a_run_after_the_step_with_a_checkpoint(
    number, tmp_path, undisturbed, monkeypatch, capsys
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, 24, lambda: os.kill(os.getpid(), number))
        assert command.main([*OPTIONS, "--out", str(folder)]) == 128 + number
    assert capsys.readouterr().err.splitlines()[-1] == (
        "stopped after step 25 of 60, which is kept; resume with: "
        f"python -m topk_ortho.train --resume {folder}"
    )
    assert (folder / "checkpoints" / "step_25").is_dir()
    resume(folder, progress=False)
    assert_same(folder, undisturbed)


@pytest.mark.fault("a signal while data is prepared")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_before_the_first_step_it_says_that_nothing_is_kept(number, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("topk_ortho.training.run.prepare", asked(number))
    assert command.main([*OPTIONS, "--out", str(tmp_path / "run")]) == 128 + number
    assert capsys.readouterr().err.startswith("stopped before there was a run folder")
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("a signal while data is prepared")
def test_before_the_first_step_of_a_resumed_run_it_says_how_to_resume(
    tmp_path, undisturbed, monkeypatch, capsys
):
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(tiny(), folder, stop_after=9, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr("topk_ortho.training.run.prepare", asked(signal.SIGTERM))
        assert command.main(["--resume", str(folder)]) == 143
    assert f"--resume {folder}" in capsys.readouterr().err
    resume(folder, progress=False)
    assert_same(folder, undisturbed)


@pytest.mark.fault("a signal while a batch is read")
@pytest.mark.parametrize("step", [0, 16])
def test_while_activations_are_computed_it_ends_at_once(step, tmp_path, undisturbed, monkeypatch):
    """A language model may compute for minutes before the first step, and between two."""
    read, batches = ShuffleBuffer.next_batch, []

    def slow(self, **how):
        batches.append(self.cursor)
        if len(batches) == step + 1:
            os.kill(os.getpid(), signal.SIGUSR1)
            raise AssertionError("it went on reading")
        return read(self, **how)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(ShuffleBuffer, "next_batch", slow)
        with pytest.raises(Interrupted, match=f"step {step} of" if step else "first step") as stop:
            train(tiny(), folder, progress=False)
    assert stop.value.number == signal.SIGUSR1
    assert (folder / "checkpoints" / f"step_{step}").is_dir() == bool(step)
    resume(folder, progress=False)
    assert_same(folder, undisturbed)


PHASES = {
    "the threshold": ("training.evaluation.calibrate", "final evaluation"),
    "the export": ("formats.saelens.export", "final evaluation"),
    "the figures": ("training.evaluation.evaluate", "final evaluation"),
    "matching": ("metrics.ground_truth.assign", "final evaluation"),
    "the plots": ("report.summary.draw", "while the plots were drawn"),
}


@pytest.mark.fault("a signal after the last step")
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    "ignored",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["", "in a background job of a script"],
)
def test_after_the_last_step_it_ends_at_once_and_names_the_folder(
    phase, ignored, tmp_path, undisturbed, monkeypatch, capsys
):
    place, said = PHASES[phase]
    folder = tmp_path / "run"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(f"topk_ortho.{place}", asked(signal.SIGINT))
            assert command.main([*OPTIONS, "--out", str(folder)]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    last = capsys.readouterr().err.splitlines()[-1]
    assert said in last and f"--resume {folder}" in last
    assert command.main(["--resume", str(folder)]) == 0
    assert_same(folder, undisturbed)
    assert len(list((folder / "plots").iterdir())) == 3


@pytest.mark.fault("a signal after the last step")
@pytest.mark.parametrize("known", [True, False], ids=["", "of an earlier version"])
def test_a_run_with_a_baseline_stopped_in_its_final_evaluation_has_its_table_and_plots(
    known, tmp_path, monkeypatch, capsys
):
    """The process that resumes it executes no step, so it times none."""
    folder = tmp_path / "run"
    median = loop.Loop._median_ms
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_median_ms", lambda self: median(self) if known else None)
        ends = []

        def second(*given, **how):
            ends.append(given)
            if len(ends) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return evaluate(*given, **how)

        patch.setattr("topk_ortho.training.evaluation.evaluate", second)
        arguments = [*OPTIONS, "--with-baseline", "--out", str(folder)]
        assert command.main(arguments) == 143
    capsys.readouterr()
    for _ in range(2):
        assert command.main(["--resume", str(folder)]) == 0
        said = capsys.readouterr().out
        assert ("unknown time per step" in said) is not known
        assert "absorption_rate" in said and f"run folder: {folder}" in said
    assert len(list((folder / "plots").iterdir())) == 3
    comparison = json.loads((folder / "comparison.json").read_text())
    assert (comparison["baseline"]["step_ms"] is not None) is known
    assert ("step_ms" in comparison["difference"]) is known


def test_nohup_is_heeded(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_step(monkeypatch, 24, lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert command.main([*OPTIONS, "--out", str(tmp_path / "run")]) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_handler_of_the_host_program_stays(tmp_path, monkeypatch):
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        at_step(monkeypatch, 24, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        train(tiny(), tmp_path / "run", progress=False)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1]


def test_other_commands_end_with_a_sentence(tmp_path, monkeypatch, capsys):
    rows = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    for name, place, arguments in (
        ("report", "report.write.write_report", [str(tmp_path)]),
        ("cache", "machine.hardware.choose_device",
         ["--model", "m", "--hook", "h", "--text", "t", "--out", str(tmp_path / "c")]),
        ("evaluate", "formats.read", [str(tmp_path), "--data", str(tmp_path)]),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(f"topk_ortho.{place}", asked(signal.SIGHUP))
            assert cli.main([name, *arguments]) == 129, name
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("stopped; ") and "the same command" in said, name


@pytest.mark.fault("a terminal that is closed")
@pytest.mark.skipif(sys.platform != "linux", reason="terminals as Linux has them")
def test_a_closed_terminal_ends_a_run_with_a_checkpoint(tmp_path):
    folder, (ours, theirs) = tmp_path / "run", pty.openpty()
    long = words("--steps 100000 --checkpoint-every 20 --log-every 5")

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-m", "topk_ortho.train", *over(OPTIONS, *long), "--out", str(folder)],
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=take_terminal,
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    until = time.monotonic() + 300
    while not list(folder.glob("checkpoints/step_*")):
        assert process.poll() is None and time.monotonic() < until
        drain(ours)
        time.sleep(0.02)
    os.close(ours)
    assert process.wait(timeout=300) == 128 + signal.SIGHUP
    steps = [int(p.name[5:]) for p in folder.glob("checkpoints/step_*")]
    with pytest.raises(Interrupted, match=f"stopped after step {max(steps) + 1} "):
        resume(folder, stop_after=1, progress=False)


def drain(terminal: int) -> None:
    """Read what was printed, so that nobody waits to print more."""
    try:
        while os.read(terminal, 65536):
            pass
    except BlockingIOError:
        pass
