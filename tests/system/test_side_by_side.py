"""Runs side by side: each as if it were alone, from one pass of the language model."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import topk_ortho.train as command
from tests import tiny_llama
from tests.system.tiny_run import SHAPE, assert_same, over, tiny
from topk_ortho.activations.language_model import LanguageModelSource
from topk_ortho.activations.passes import Passes
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.toml import read_config
from topk_ortho.training import Interrupted, train
from topk_ortho.training.finite import NotFiniteError
from topk_ortho.training.side_by_side import resume_side_by_side, train_side_by_side

HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_mlp_out")


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list[str]:
    text = tmp_path_factory.mktemp("text") / "t.txt"
    text.write_text("\n\n".join(tiny_llama.stories(120)))
    model = ["--model", str(tiny_llama.shared()), "--hook", HOOKS[0]]
    return over(SHAPE, *model, "--text", str(text), "--context", "32", "--checkpoint-every", "20")


@pytest.fixture(scope="module")
def configs(options) -> dict[str, TrainConfig]:
    """Two hook points, sizes, seeds and architectures."""
    first = tiny(base=options)
    return {
        "a": first,
        "other_hook": replace(first, hook=HOOKS[1]),
        "other_seed": replace(first, seed=5),
        "other_sae": replace(first, sae=replace(first.sae, kind="topk"), hook=HOOKS[1]),
    }


_trained: list[Path] = []


@pytest.fixture
def together(configs, tmp_path_factory) -> Path:
    """The folder of the runs, trained once."""
    if not _trained:
        folder = tmp_path_factory.mktemp("together") / "runs"
        assert list(train_side_by_side(configs, folder, progress=False)) == list(configs)
        _trained.append(folder)
    return _trained[0]


def test_each_is_bit_for_bit_what_it_is_alone(together, configs, tmp_path):
    for name in configs:
        config = read_config(together / name / "config.toml")
        train(config, tmp_path / name, progress=False)
        assert_same(together / name, tmp_path / name)
    assert read_config(together / "other_seed" / "config.toml").data_seed == configs["a"].seed


def test_the_model_runs_once_for_all(configs, tmp_path, monkeypatch):
    asked: list[int] = []
    compute = LanguageModelSource.rows_at

    def counted(self, index, split, hooks):
        asked.append(len(hooks))
        return compute(self, index, split, hooks)

    monkeypatch.setattr(LanguageModelSource, "rows_at", counted)
    train(configs["a"], tmp_path / "alone", progress=False)
    alone = len(asked)
    asked.clear()
    train_side_by_side(configs, tmp_path / "runs", progress=False)
    assert asked == alone * [len(HOOKS)]


def test_what_all_are_measured_on_is_computed_once_though_training_filled_the_room(
    configs, tmp_path, monkeypatch
):
    asked: list[tuple[str, int]] = []
    compute, make_room = LanguageModelSource.rows_at, LanguageModelSource.make_room
    create = LanguageModelSource.__init__

    def noted(self, index, split, hooks):
        asked.append((split, index))
        return compute(self, index, split, hooks)

    def with_little_room(self, *given, **how):
        create(self, *given, **how | {"cache_bytes": 600_000})  # four of nine blocks

    def started_anew(self):
        asked.clear()
        make_room(self)

    monkeypatch.setattr(LanguageModelSource, "rows_at", noted)
    monkeypatch.setattr(LanguageModelSource, "make_room", started_anew)
    monkeypatch.setattr(LanguageModelSource, "__init__", with_little_room)
    train_side_by_side(configs, tmp_path / "runs", progress=False)
    assert ("eval", 0) in asked and len(asked) == len(set(asked))


@pytest.mark.fault("several runs stopped, and one of them behind the others")
def test_stopped_runs_meet_again(together, configs, tmp_path):
    folder = tmp_path / "runs"
    with pytest.raises(Interrupted, match=f"after step 50, .*--resume {folder}"):
        train_side_by_side(configs, folder, stop_after=50, progress=False)
    for name in ("a", "other_sae"):
        newest = max((folder / name / "checkpoints").glob("step_*"), key=lambda p: int(p.name[5:]))
        shutil.rmtree(newest)
    resume_side_by_side(folder, progress=False)
    for name in configs:
        assert_same(folder / name, together / name)


def test_runs_that_are_finished_are_not_trained_again(together):
    before = [path.read_bytes() for path in sorted(together.glob("*/result.json"))]
    results = resume_side_by_side(together, progress=False)
    assert [path.read_bytes() for path in sorted(together.glob("*/result.json"))] == before
    assert len(results) == len(before)


@pytest.mark.fault("a number that is not finite in one of several runs")
def test_one_that_fails_leaves_the_others_be(together, configs, tmp_path, monkeypatch):
    from topk_ortho.training import loop

    step = loop.train_step

    def failing(state, x, *target):
        if state.config.seed == 5 and state.step == 30:
            x = x.clone()
            x[0, 0] = torch.nan
        return step(state, x, *target)

    monkeypatch.setattr(loop, "train_step", failing)
    with pytest.raises(NotFiniteError):
        train_side_by_side(configs, tmp_path / "runs", progress=False)
    assert not (tmp_path / "runs" / "other_seed" / "result.json").exists()
    for name in set(configs) - {"other_seed"}:
        assert_same(tmp_path / "runs" / name, together / name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 61}, "differ in --steps"),
        ({"context": 16}, "differ in --context"),
        ({"with_baseline": True}, "--vary pairs.criterion=row-coactivation,none"),
    ],
)
def test_what_cannot_share_is_refused(change, said, configs, tmp_path):
    runs = {"a": configs["a"], "b": replace(configs["a"], **change)}
    with pytest.raises(ConfigError, match=said):
        train_side_by_side(runs, tmp_path / "runs", progress=False)
    assert not list(tmp_path.iterdir())


def test_the_command(options, tmp_path, capsys):
    more = ["--hook", HOOKS[1], "--vary", "sae.k=2,4", "--out", str(tmp_path / "runs")]
    assert command.main([*options, *more, "--stop-after", "20"]) == 130
    assert command.main(["--resume", str(tmp_path / "runs")]) == 0
    names = {path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()}
    assert names == {f"sae.k={k}_hook={hook}" for k in (2, 4) for hook in HOOKS}
    out = capsys.readouterr().out
    assert all(name in out for name in names) and "ce_score" in out
    for name in names:
        result = json.loads((tmp_path / "runs" / name / "result.json").read_text())
        assert result["steps"] == 60
    assert command.main(["--resume", str(tmp_path / "runs"), "--vary", "sae.k=2"]) == 2


@pytest.mark.fault("a signal that asks several runs to end")
def test_a_signal_leaves_checkpoints_of_all(together, configs, tmp_path, monkeypatch):
    from topk_ortho.training import loop

    step = loop.train_step

    def last(state, x, target=None):
        if state.config.seed == 5 and state.step == 29:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(state, x, target)

    folder = tmp_path / "runs"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", last)
        with pytest.raises(Interrupted, match="after step 29, ") as stop:
            train_side_by_side(configs, folder, progress=False)
    assert stop.value.exit_code == 143
    resume_side_by_side(folder, progress=False)
    for name in configs:
        assert_same(folder / name, together / name)


def test_runs_on_other_data_than_a_language_models(tmp_path):
    first = tiny()
    runs = {"a": first, "b": replace(first, seed=3), "c": replace(first, lr=0.01)}
    train_side_by_side(runs, tmp_path / "runs", progress=False)
    for name in runs:
        config = read_config(tmp_path / "runs" / name / "config.toml")
        train(config, tmp_path / name, progress=False)
        assert_same(tmp_path / "runs" / name, tmp_path / name)


def test_transcoders_of_one_target_share_the_pass(configs, tmp_path, monkeypatch):
    asked: list[tuple[str, ...]] = []
    compute = LanguageModelSource.rows_at

    def counted(self, index, split, hooks):
        asked.append(tuple(hooks))
        return compute(self, index, split, hooks)

    first = replace(configs["a"], hook="blocks.0.hook_resid_post", hook_out=HOOKS[1])
    runs = {"a": first, "b": replace(first, hook="blocks.0.hook_resid_mid")}
    monkeypatch.setattr(LanguageModelSource, "rows_at", counted)
    train(first, tmp_path / "a", progress=False)
    alone = len(asked)
    asked.clear()
    train_side_by_side(runs, tmp_path / "runs", progress=False)
    assert asked == alone * [(runs["a"].hook, runs["b"].hook, HOOKS[1])]
    assert_same(tmp_path / "runs" / "a", tmp_path / "a")


def test_rows_that_wait_are_dropped_beyond_a_limit():
    passes = Passes(["p", "q"], most_rows=30)

    def compute(index, split, hooks):
        return {hook: torch.full((10, 1), float(index)) for hook in hooks}

    for index in range(5):
        passes.block(compute, index, "train", "p")
    assert passes.count == 5
    for index in (2, 3, 4):
        assert float(passes.block(compute, index, "train", "q").x[0]) == index
    assert passes.count == 5
    passes.block(compute, 0, "train", "q")  # was dropped
    assert passes.count == 6
