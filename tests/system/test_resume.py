"""A run that was stopped, however roughly, and resumed equals the undisturbed one bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import topk_ortho.train as command
from tests import tiny_llama
from tests.conftest import environment
from tests.system.tiny_run import OPTIONS, SHAPE, assert_same, events, over, tiny, words
from topk_ortho.config import TrainConfig
from topk_ortho.training import Interrupted, resume, train
from topk_ortho.training.folder import RunFolder

Undisturbed = Callable[[TrainConfig], Path]
_finished: dict[TrainConfig, Path] = {}


@pytest.fixture
def undisturbed(tmp_path_factory) -> Undisturbed:
    """The folder of the undisturbed run of a configuration, trained once."""

    def of(config: TrainConfig) -> Path:
        if config not in _finished:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            train(config, folder, progress=False)
            _finished[config] = folder
        return _finished[config]

    return of


def stopped(config: TrainConfig, folder: Path, *, after: int) -> Path:
    with pytest.raises(Interrupted) as stop:
        train(config, folder, stop_after=after, progress=False)
    assert stop.value.exit_code == 130
    assert str(folder) in str(stop.value)
    assert not (folder / "result.json").exists()
    return folder


VARIANTS = {
    "topk": "--sae.kind topk",
    "batch-topk": "--sae.kind batch-topk",
    "relu": "--sae.kind relu",
    "matryoshka": "--sae.kind matryoshka",
    "stability": "--penalty.tau stability",
    "refresh_every": "--penalty.refresh-every 3",
    "every_n": "--penalty.every-n 2",
    "gradient-accumulated": "--pairs.criterion gradient-accumulated",
    "suppressed": "--pairs.criterion suppressed",
    "stability, refreshed": "--penalty.tau stability --penalty.refresh-every 4",
    "random": "--pairs.criterion random",
    "coactive-cosine": "--pairs.criterion coactive-cosine --penalty.tau mean-std-all",
    "schedule": "--pairs.fraction .01 --pairs.final-fraction .1 --pairs.schedule exponential",
    "small history": "--history.capacity 200",
    "no history": "--history.no-enabled",
    "no constraint": "--pairs.criterion none",
    "planted": "--plant.roots 3",
}


@pytest.mark.parametrize("name", VARIANTS)
def test_resuming_is_exact(name, tmp_path, undisturbed):
    config = tiny(*VARIANTS[name].split())
    folder = stopped(config, tmp_path / "run", after=31)
    resume(folder, progress=False)
    assert_same(folder, undisturbed(config))


def test_the_tiny_run_exercises_aux_k(undisturbed):
    logged = events(undisturbed(tiny()))
    assert sum(event["aux"] > 0 for event in logged) >= 3
    assert logged[-1]["orthogonality"] > 0


def test_another_seed_is_another_run(tmp_path, undisturbed):
    train(tiny("--seed", "1"), tmp_path / "run", progress=False)
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "run", undisturbed(tiny()))


@pytest.mark.fault("several stops of one run")
def test_many_stops_are_as_exact_as_one(tmp_path, undisturbed):
    folder = stopped(tiny(), tmp_path / "run", after=1)
    for _ in range(3):
        with pytest.raises(Interrupted):
            resume(folder, stop_after=13, progress=False)
    resume(folder, progress=False)
    assert_same(folder, undisturbed(tiny()))


def test_a_finished_run_is_not_trained_again(tmp_path, undisturbed):
    before = (undisturbed(tiny()) / "result.json").read_bytes()
    resume(undisturbed(tiny()), progress=False)
    assert (undisturbed(tiny()) / "result.json").read_bytes() == before


@pytest.mark.fault("stopped between the last checkpoint and the result")
def test_killed_between_the_last_checkpoint_and_the_result(tmp_path, undisturbed, monkeypatch):
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("topk_ortho.training.evaluation.evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "result.json").exists()
    resume(tmp_path / "run", progress=False)
    assert_same(tmp_path / "run", undisturbed(tiny()))


@pytest.mark.fault("a torn last line of the log")
def test_a_torn_last_line_of_the_log_is_repaired(tmp_path, undisturbed):
    folder = stopped(tiny(), tmp_path / "run", after=31)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 35, "loss": 0.1')
    resume(folder, progress=False)
    assert_same(folder, undisturbed(tiny()))


@pytest.mark.fault("log lines of steps that were lost")
def test_lines_after_the_checkpoint_are_logged_again_not_twice(tmp_path, undisturbed):
    folder = stopped(tiny(), tmp_path / "run", after=31)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 35, "loss": 0.1}) + "\n")
    resume(folder, progress=False)
    assert_same(folder, undisturbed(tiny()))


@pytest.mark.fault("a damaged newest checkpoint")
@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "history.bin"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(name, tmp_path, undisturbed):
    folder = stopped(tiny(), tmp_path / "run", after=31)
    assert {p.name for p in RunFolder(folder).checkpoints.iterdir()} == {"step_20", "step_31"}
    damaged = folder / "checkpoints" / "step_31" / name
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    resume(folder, progress=False)
    assert_same(folder, undisturbed(tiny()))


@pytest.mark.fault("no valid checkpoint at all")
def test_without_any_valid_checkpoint_a_run_starts_again(tmp_path, undisturbed):
    folder = stopped(tiny(), tmp_path / "run", after=11)
    (folder / "checkpoints" / "step_11" / "manifest.json").unlink()
    resume(folder, progress=False)
    assert_same(folder, undisturbed(tiny()))


@pytest.mark.fault("a stop inside of the baseline")
def test_stopped_inside_the_baseline(tmp_path, undisturbed, capsys):
    config = tiny("--with-baseline")
    folder = tmp_path / "run"
    arguments = over(OPTIONS, "--with-baseline", "--out", str(folder))
    assert command.main([*arguments, "--stop-after", "85"]) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("stopped after step 25 of 60")
    assert said.endswith(f"--resume {folder}")  # the run, not its baseline
    assert (folder / "result.json").exists()
    assert not (folder / "comparison.json").exists()
    resume(folder, progress=False)
    whole = undisturbed(config)
    assert_same(folder, whole)
    assert_same(folder / "baseline", whole / "baseline")
    assert set(json.loads((folder / "comparison.json").read_text())) == {
        "constrained",
        "baseline",
        "difference",
    }


def test_stopped_between_the_arms(tmp_path, undisturbed):
    config = tiny("--with-baseline")
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", stop_after=60, progress=False)
    assert not (tmp_path / "run" / "baseline" / "checkpoints").exists()
    resume(tmp_path / "run", progress=False)
    assert_same(tmp_path / "run" / "baseline", undisturbed(config) / "baseline")


def test_both_arms_see_the_same_data(undisturbed):
    whole = undisturbed(tiny("--with-baseline"))
    assert_same(whole, undisturbed(tiny()))
    assert_same(whole / "baseline", undisturbed(tiny("--pairs.criterion", "none")))


def test_from_files(tmp_path, undisturbed):
    shards = tmp_path / "shards"
    shards.mkdir()
    rng = np.random.default_rng(0)
    for n in range(3):
        np.save(shards / f"{n}.npy", rng.normal(size=(257, 12)).astype(np.float32))
    config = tiny("--activations", "files", "--data", str(shards), base=SHAPE)
    assert 60 * 32 > 3 * 257  # several epochs, so the order is drawn again
    resume(stopped(config, tmp_path / "run", after=31), progress=False)
    assert_same(tmp_path / "run", undisturbed(config))


def language_options(folder: Path) -> list[str]:
    text = folder / "t.txt"
    text.write_text("\n\n".join(tiny_llama.stories(60)))
    model = ["--activations", "language-model", "--model", str(tiny_llama.shared())]
    where = ["--text", str(text), "--context", "32", "--hook", "blocks.0.hook_resid_post"]
    return over(SHAPE, *model, *where)


def test_from_a_language_model(tmp_path, undisturbed):
    config = tiny(base=language_options(tmp_path))
    resume(stopped(config, tmp_path / "run", after=31), progress=False)
    assert_same(tmp_path / "run", undisturbed(config))


LONG = words("--steps 100000 --checkpoint-every 20 --log-every 5 --eval-samples 64")


def started(folder: Path, *options: str) -> subprocess.Popen[str]:
    """A long run in a process of its own, its schedules those of 100,000 steps."""
    arguments = over(over(OPTIONS, *LONG, "--out", str(folder)), *options)
    return subprocess.Popen(
        [sys.executable, "-m", "topk_ortho.train", *arguments],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.01)


def newest_step(folder: Path) -> int:
    found = (folder / "checkpoints").glob("step_*")
    return max((int(p.name[5:]) for p in found if p.name[5:].isdigit()), default=0)


def continues_exactly(folder: Path, tmp_path: Path) -> None:
    """From its newest checkpoint the run continues as one in this process that was never killed."""
    at = newest_step(folder)
    with pytest.raises(Interrupted):
        resume(folder, stop_after=20, progress=False)
    with pytest.raises(Interrupted):
        train(tiny(*LONG), tmp_path / "other", stop_after=at + 20, progress=False)
    for name in ("tensors.safetensors", "history.bin"):
        one, other = (f / "checkpoints" / f"step_{at + 20}" / name
                      for f in (folder, tmp_path / "other"))  # fmt: skip
        assert one.read_bytes() == other.read_bytes(), name


@pytest.mark.fault("SIGTERM or Ctrl-C")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_ends_the_run_with_a_checkpoint(number, code, tmp_path):
    folder = tmp_path / "run"
    process = started(folder)
    wait_for(lambda: newest_step(folder) >= 20, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == code
    last = stderr.splitlines()[-1]
    step = newest_step(folder)
    assert last == (
        f"stopped after step {step} of 100000, which is kept; resume with: "
        f"python -m topk_ortho.train --resume {folder}"
    )
    continues_exactly(folder, tmp_path)


@pytest.mark.fault("kill -9 at some step")
def test_kill_9(tmp_path):
    folder = tmp_path / "run"
    process = started(folder)
    wait_for(lambda: newest_step(folder) >= 40, process)
    process.kill()
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert newest_step(folder) % 20 == 0
    continues_exactly(folder, tmp_path)


@pytest.mark.fault("kill -9 before the first checkpoint")
def test_kill_9_before_the_first_checkpoint(tmp_path):
    folder = tmp_path / "run"
    process = started(folder, "--checkpoint-every", "90000")
    log = folder / "metrics.jsonl"
    wait_for(lambda: log.exists() and log.stat().st_size > 0, process)
    process.kill()
    process.communicate(timeout=300)
    assert newest_step(folder) == 0
    continues_exactly(folder, tmp_path)


@pytest.mark.fault("a signal during the last step")
def test_a_signal_in_the_last_step_is_not_lost(tmp_path, monkeypatch, undisturbed):
    from topk_ortho.training import loop

    step = loop.train_step

    def last(state, x, *target):
        if state.step == 59:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(state, x, *target)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", last)
        with pytest.raises(Interrupted) as stop:
            train(tiny("--with-baseline"), tmp_path / "run", progress=False)
    assert stop.value.exit_code == 143
    resume(tmp_path / "run", progress=False)
    assert_same(tmp_path / "run", undisturbed(tiny()))


@pytest.mark.fault("a part of the state that is not restored")
@pytest.mark.parametrize("part", ["optimizer", "firing", "cursor", "selection", "history"])
def test_the_comparison_notices_what_is_not_restored(part, tmp_path, undisturbed, monkeypatch):
    """Each part of the state matters: left out of the restored state, the runs differ."""
    from topk_ortho.training.state import TrainState

    config = tiny("--penalty.tau", "stability", "--penalty.refresh-every", "3")
    folder = stopped(config, tmp_path / "run", after=31)
    restore = TrainState.restore

    def partly(self, tensors, numbers, history):
        restore(self, tensors, numbers, history)
        match part:
            case "optimizer":
                self.optimizer._adam.state.clear()
            case "firing":
                self.firing.rate.zero_()
            case "cursor":
                self.buffer.load_state_dict({"epoch": 0, "block": 0, "row": 0})
            case "selection":
                self.constraint.selected_at -= 1
            case "history":
                self.constraint._recorder = None

    monkeypatch.setattr(TrainState, "restore", partly)
    resume(folder, progress=False)
    with pytest.raises(AssertionError):
        assert_same(folder, undisturbed(config))
