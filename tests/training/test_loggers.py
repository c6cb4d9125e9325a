"""Loggers beside `metrics.jsonl`: they are told the same, change nothing, and may fail."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.system.tiny_run import SHAPE, SYNTHETIC, events, outcome, over, tiny
from topk_ortho import cli
from topk_ortho.config import ConfigError
from topk_ortho.config.toml import config_hash, read_config
from topk_ortho.inspect.reproduce import reproduce
from topk_ortho.machine.interrupt import Interrupted
from topk_ortho.training import loggers, resume, train
from topk_ortho.training.side_by_side import train_side_by_side

CHANGING = ("tokens_per_second", "memory_allocated", "memory_reserved", "held_out_seconds")


class Recorder:
    """A logger that remembers what it is told, by the name of the run."""

    opened: list[Recorder]

    def __init__(self, place: loggers.Place) -> None:
        self.place = place
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.final: dict[str, float] = {}
        self.ended: bool | None = None
        Recorder.opened.append(self)

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self.lines.append((step, dict(numbers)))

    def end(self, step: int, numbers: dict[str, float]) -> None:
        self.final = dict(numbers)

    def close(self, *, ended: bool) -> None:
        assert self.ended is None
        self.ended = ended


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """The loggers that are opened in place of TensorBoard's, in their order."""
    monkeypatch.setattr(Recorder, "opened", [], raising=False)
    monkeypatch.setitem(loggers.LOGGERS, "tensorboard", Recorder)
    monkeypatch.setattr(loggers, "check_loggers", lambda names: None)
    monkeypatch.setattr("topk_ortho.training.run.check_loggers", lambda names: None)
    monkeypatch.setattr("topk_ortho.training.side_by_side.check_loggers", lambda names: None)
    return Recorder.opened


def logging(*options: str) -> Any:
    return replace(tiny("--evaluate-every", "20", *options), log_to=("tensorboard",))


def test_a_logger_is_told_what_the_file_is(tmp_path: Path, recorders: list[Recorder]) -> None:
    result = train(logging(), tmp_path / "run", progress=False)
    (recorder,) = recorders
    lines = events(tmp_path / "run")
    assert [step for step, _ in recorder.lines] == [line["step"] for line in lines]
    for (_, told), line in zip(recorder.lines, lines, strict=True):
        assert told == loggers.numbers_of(line)
    held_out = [told for _, told in recorder.lines if "held_out/l0" in told]
    assert len(held_out) == 3
    assert held_out[-1]["held_out/excess"] == lines[-1]["held_out"]["excess"]
    assert recorder.lines[0][1]["loss"] == lines[0]["loss"]
    assert recorder.final["final/excess"] == result["excess"]
    assert not any("counts" in name for name in recorder.final)
    assert recorder.ended is True
    assert recorder.place.config["sae"]["d_sae"] == 64
    assert recorder.place.name == "row-coactivation, seed 0, run"


def test_a_run_is_bit_for_bit_as_without(tmp_path: Path, recorders: list[Recorder]) -> None:
    plain = tiny("--evaluate-every", "20")
    assert config_hash(logging()) == config_hash(plain)
    train(plain, tmp_path / "without", progress=False)
    train(logging(), tmp_path / "with", progress=False)
    assert len(recorders) == 1
    without, with_ = (outcome(tmp_path / name) for name in ("without", "with"))
    assert {k: v for k, v in with_.items() if k != "events"} == {
        k: v for k, v in without.items() if k != "events"
    }
    for a, b in zip(with_["events"], without["events"], strict=True):
        assert {k: v for k, v in a.items() if k not in CHANGING} == {
            k: v for k, v in b.items() if k not in CHANGING
        }


def test_both_arms_are_logged_and_a_resumed_run_is_the_same_one(
    tmp_path: Path, recorders: list[Recorder]
) -> None:
    config = replace(logging(), with_baseline=True)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", stop_after=30, progress=False)
    resume(tmp_path / "run", progress=False)
    begun, resumed, baseline = recorders
    assert (begun.ended, resumed.ended, baseline.ended) == (False, True, True)
    assert begun.place.id == resumed.place.id != baseline.place.id
    assert (begun.place.step, resumed.place.step) == (0, 30)
    assert all(step > 30 for step, _ in resumed.lines)
    assert baseline.place.name == "none, seed 0, baseline"


def test_runs_side_by_side_have_a_logger_each(tmp_path: Path, recorders: list[Recorder]) -> None:
    configs = {"a": logging(), "b": replace(logging(), lr=1e-3)}
    results = train_side_by_side(configs, tmp_path / "runs", progress=False)
    assert [recorder.place.folder.name for recorder in recorders] == ["a", "b"]
    for recorder in recorders:
        name = recorder.place.folder.name
        assert recorder.final["final/excess"] == results[name]["excess"]
        told = [told for _, told in recorder.lines]
        assert told == [loggers.numbers_of(line) for line in events(tmp_path / "runs" / name)]
        assert recorder.ended is True


@pytest.mark.parametrize("method", ["__init__", "log", "end", "close"])
def test_a_logger_that_fails_is_dropped_and_the_run_continues(
    method: str, tmp_path: Path, recorders: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no such server")

    monkeypatch.setattr(Recorder, method, fail)
    with pytest.warns(UserWarning, match=r"--log-to tensorboard failed.*no such server") as met:
        result = train(logging(), tmp_path / "run", progress=False)
    assert result["steps"] == 60
    assert sum("--log-to" in str(warning.message) for warning in met) == 1
    assert len(events(tmp_path / "run")) == 12


def test_a_missing_package_is_said_in_one_sentence_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    said = r"--log-to wandb was given, but wandb is not installed; run pip install 'topk-ortho\[wan"
    with pytest.raises(ConfigError, match=said):
        train(replace(tiny(), log_to=("wandb",)), tmp_path / "run", progress=False)
    for command in ("train", "ablate", "calibrate"):
        out = tmp_path / command
        assert cli.main([command, "--log-to", "wandb", "--out", str(out)]) == 2
        assert "pip install 'topk-ortho[wandb]'" in capsys.readouterr().err
        assert not out.exists()
    assert not (tmp_path / "run").exists()


def test_a_folder_of_the_same_name_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights & Biases leaves a folder `wandb` where it runs, which Python would import."""
    (tmp_path / "trackio").mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert importlib.util.find_spec("trackio") is not None
    with pytest.raises(ConfigError, match="not installed"):
        loggers.check_loggers(["trackio"])


def test_loggers_are_named_on_the_command_line_and_in_toml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.toml"
    path.write_text('log_to = ["tensorboard", "wandb"]\n')
    assert read_config(path).log_to == ("tensorboard", "wandb")
    path.write_text('log_to = ["tensorbord"]\n')
    with pytest.raises(ConfigError, match=r"one of tensorboard, wandb, trackio.*tensorboard"):
        read_config(path)
    assert cli.main(["train", "--log-to", "mlflow"]) == 2
    assert "one of tensorboard, wandb, trackio" in capsys.readouterr().err


def test_a_run_that_is_reproduced_is_not_logged_again(
    tmp_path: Path, recorders: list[Recorder]
) -> None:
    train(logging(), tmp_path / "run", progress=False)
    assert reproduce(tmp_path / "run").equal
    assert len(recorders) == 1


def installed(name: str) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed; pip install '.[{name}]'")


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a run's file: blocks of 32 KiB after 7 bytes, with pieces of records."""
    from wandb.proto import wandb_internal_pb2

    raw, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(raw):
        if 32768 - at % 32768 < 7:  # too little is left of the block for a header
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(raw[at + 4 : at + 6], "little"), raw[at + 6]
        record += raw[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last piece
            found = wandb_internal_pb2.Record()
            found.ParseFromString(record)
            yield found
            record = b""


OPTIONS = over(SHAPE, *SYNTHETIC, "--evaluate-every", "20", "--sae.kind", "topk")


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    installed("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(tiny(base=OPTIONS), log_to=("tensorboard",))
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", stop_after=30, progress=False)
    result = resume(tmp_path / "run", progress=False)
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    lines = [line for line in events(tmp_path / "run") if "loss" in line]
    scalars = found.Scalars("loss")
    assert [scalar.step for scalar in scalars] == [line["step"] for line in lines]
    assert [scalar.value for scalar in scalars] == pytest.approx([li["loss"] for li in lines])
    assert len(found.Scalars("held_out/l0")) == 3
    assert found.Scalars("final/excess")[0].value == pytest.approx(result["excess"])


def test_weights_and_biases_writes_a_run_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    command = [sys.executable, "-m", "topk_ortho.train", *OPTIONS, "--vary", "lr=0.001,0.002",
               "--log-to", "wandb", "--out", str(tmp_path / "r")]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=240)  # its service is shared
    runs = sorted(path.parent for path in tmp_path.glob("r/*/result.json"))
    assert len(runs) == 2
    for run in runs:
        (path,) = run.glob("wandb/offline-run-*/*.wandb")
        losses = []
        for record in wandb_records(path):
            values = {item.key or "/".join(item.nested_key): json.loads(item.value_json)
                      for item in record.history.item}  # fmt: skip
            if "loss" in values:
                losses.append((values["step"], values["loss"]))
        lines = [line for line in events(run) if "loss" in line]
        assert losses == [(line["step"], line["loss"]) for line in lines]


def test_trackio_has_both_runs_of_an_ablation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read by the worker
    options = [*over(OPTIONS, "--log-to", "trackio"), "--seeds", "1", "--out", str(tmp_path / "a")]
    others = ["--without-arm", "rate-matched-random", "ortsae", "matryoshka"]
    assert cli.main(["ablate", *options, *others]) == 0
    with sqlite3.connect(tmp_path / "trackio" / "topk-ortho.db") as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
    finals = {name for name, _, metrics in rows if "final/explained_variance" in str(metrics)}
    assert {name.split(",")[0] for name in finals} == {"none", "row-coactivation"}
    assert all(", seed 400, " in name for name in finals)
    assert sum('"loss"' in str(metrics) for _, _, metrics in rows) == 2 * 9
