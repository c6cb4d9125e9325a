"""A run folder works from any folder, and in any place that it is moved to."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import topk_ortho.train as command
from tests import tiny_llama
from tests.system.tiny_run import SHAPE, assert_same, tiny
from topk_ortho import cli
from topk_ortho.config import ConfigError
from topk_ortho.config.paths import absolute, stored_config
from topk_ortho.config.toml import config_hash, config_text, read_config
from topk_ortho.training import Interrupted, resume, train
from topk_ortho.training.folder import RunFolder

SHORT = ["--steps", "20", "--checkpoint-every", "8", "--eval-samples", "256"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data, which is where commands run."""
    here = tmp_path / "project"
    (here / "shards").mkdir(parents=True)
    rows = np.random.default_rng(0).normal(size=(1500, 12)).astype(np.float32)
    np.save(here / "shards" / "x.npy", rows)
    monkeypatch.chdir(here)
    return here


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def begun(out: str = "runs/one", *, steps: int = 9) -> None:
    config = tiny(*SHORT, "--activations", "files", "--data", "shards", base=SHAPE)
    with pytest.raises(Interrupted):
        train(config, out, stop_after=steps, progress=False)


@pytest.mark.fault("a run that is resumed from another folder")
def test_a_run_is_resumed_and_read_from_another_folder(
    project, elsewhere, monkeypatch, capsys
) -> None:
    begun()
    begun("whole", steps=9)
    resume("whole", progress=False)
    monkeypatch.chdir(elsewhere)
    run = str(project / "runs" / "one")
    assert command.main(["--resume", run]) == 0
    assert_same(Path(run), project / "whole")
    for arguments in (["evaluate", run], ["pairs", run], ["reproduce", run], ["report", run]):
        out = ["--out", "page.html"] if arguments[0] == "report" else []
        assert cli.main([*arguments, *out]) == 0, arguments
    assert "reproduced bit for bit" in capsys.readouterr().out


@pytest.mark.fault("a run folder that was moved")
def test_a_run_is_resumed_where_it_was_moved_to(project, elsewhere, monkeypatch) -> None:
    begun()
    shutil.move(project / "runs" / "one", elsewhere / "moved")
    monkeypatch.chdir(elsewhere)
    assert command.main(["--resume", "moved"]) == 0


def of_an_earlier_version(run: Path) -> None:
    """Put the paths of a run back to those that were given, as earlier versions kept them."""
    config = replace(read_config(run / "config.toml"), data=Path("shards"))
    (run / "config.toml").write_text(config_text(config))
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["data"] = {f"shards/{Path(p).name}": mark for p, mark in manifest["data"].items()}
    (run / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.fault("a run that is resumed from another folder")
def test_a_run_with_relative_paths_is_found_below_where_it_was_started(
    project, elsewhere, monkeypatch, capsys
) -> None:
    begun()
    of_an_earlier_version(project / "runs" / "one")
    monkeypatch.chdir(elsewhere)
    assert command.main(["--resume", str(project / "runs" / "one")]) == 0
    assert cli.main(["reproduce", str(project / "runs" / "one")]) == 0, capsys.readouterr()


@pytest.mark.fault("a run that is resumed from another folder")
def test_relative_paths_that_are_nowhere_end_in_one_sentence(
    project, elsewhere, monkeypatch, capsys
) -> None:
    begun()
    of_an_earlier_version(project / "runs" / "one")
    shutil.move(project / "runs" / "one", elsewhere / "moved")
    monkeypatch.chdir(elsewhere)
    assert command.main(["--resume", "moved"]) == 2
    said = capsys.readouterr().err
    assert "data = shards, which is relative to where the run was started" in said
    assert len(said.splitlines()) == 1


def test_every_path_is_kept_whole_and_a_name_stays_a_name(project) -> None:
    files = tiny("--activations", "files", "--data", "shards", base=SHAPE)
    text = (Path("a.txt"), Path("/b.txt"))
    named = replace(files, text=text, init_from=Path("sae"), model="org/m")
    whole = absolute(named)
    assert whole.data == project / "shards"
    assert whole.text == (project / "a.txt", Path("/b.txt"))
    assert (whole.init_from, whole.model) == (project / "sae", "org/m")
    (project / "org" / "m").mkdir(parents=True)
    assert absolute(named).model == str(project / "org" / "m")
    assert config_hash(absolute(named)) == config_hash(named)
    assert absolute(tiny()) == tiny()


def test_the_data_folder_may_be_where_the_command_runs(project, elsewhere, monkeypatch) -> None:
    """`.` has no name, which the hash of a configuration would take."""
    monkeypatch.chdir(project / "shards")
    config = tiny(*SHORT, "--activations", "files", "--data", ".", base=SHAPE)
    with pytest.raises(Interrupted):
        train(config, elsewhere / "run", stop_after=9, progress=False)
    monkeypatch.chdir(elsewhere)
    assert resume("run", progress=False)["steps"] == 20


def test_a_model_by_a_relative_path_is_found_from_elsewhere(
    project, elsewhere, monkeypatch
) -> None:
    shutil.copytree(tiny_llama.shared(), project / "model")
    (project / "t.txt").write_text("\n\n".join(tiny_llama.stories(60)))
    config = tiny(
        *SHORT, "--activations", "language-model", "--model", "model", "--text", "t.txt",
        "--context", "32", "--hook", "blocks.0.hook_resid_post", base=SHAPE,
    )  # fmt: skip
    with pytest.raises(Interrupted):
        train(config, "run", stop_after=9, progress=False)
    monkeypatch.chdir(elsewhere)
    assert resume(project / "run", progress=False)["steps"] == 20
    assert cli.main(["pairs", str(project / "run")]) == 0


def test_a_missing_sae_to_start_from_is_no_obstacle_once_a_run_has_begun(project) -> None:
    RunFolder.create(project / "run", replace(tiny(), init_from=Path("gone"), init_sha256="0" * 64))
    text = (project / "run" / "config.toml").read_text()
    (project / "run" / "config.toml").write_text(text.replace(str(project / "gone"), "gone"))
    assert stored_config(project / "run").init_from == Path("gone")
    with pytest.raises(ConfigError, match=r"config\.toml"):
        stored_config(project)
