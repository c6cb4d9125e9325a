"""What is typed by mistake, or to find out: close options, help, the version, what is not there."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

from tests.report.folders import run_folder
from topk_ortho import __version__, cli, train
from topk_ortho.commands import absorption, repair
from topk_ortho.commands.reader import build, read
from topk_ortho.commands.reader.output import PACKAGE, plain_warnings
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.toml import config_text
from topk_ortho.inspect.repair.defaults import own_data
from topk_ortho.report.collect import newest
from topk_ortho.report.summary import ALONE, finish


def said(*arguments: str, capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    capsys.readouterr()
    assert cli.main(list(arguments)) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["--k", "8"], "no such option (perhaps you meant --sae.k);"),
        (["--d-sae", "64"], "(perhaps you meant --sae.d-sae);"),
        (["--wandb"], "no such option; see --help"),
        (["--roots", "3"], "(perhaps you meant --synthetic.roots or --plant.roots);"),
        (["--stepz", "3"], "(perhaps you meant --steps);"),
        (["--sae.kind", "btopk"], "(perhaps you meant batch-topk)"),
    ],
)
def test_the_close_option_is_offered(
    arguments: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert near in said("train", *arguments, capsys=capsys)


def test_help_is_a_word_too(capsys: pytest.CaptureFixture[str]) -> None:
    listing = said("help", capsys=capsys, code=0)
    assert listing == said("--help", capsys=capsys, code=0)
    with pytest.raises(SystemExit) as ended:
        cli.main(["help", "doctor"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: topk-ortho doctor [OPTIONS]"
    assert lines[2].startswith("Report what a run would need")


def test_a_warning_is_one_line_without_a_place() -> None:
    before = warnings.formatwarning
    with plain_warnings():
        own = warnings.formatwarning("lower --lr.", UserWarning, str(PACKAGE / "x.py"), 1)
        other = warnings.formatwarning("of others", UserWarning, "/y.py", 7)
    assert own == "warning: lower --lr.\n" and other.startswith("/y.py:7: UserWarning: of others")
    assert warnings.formatwarning is before


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    import topk_ortho.train as module

    assert said("--version", capsys=capsys, code=0) == f"topk-ortho {__version__}\n"
    assert module.main(["--version"]) == 0
    assert capsys.readouterr().out == f"topk-ortho {__version__}\n"


def test_a_report_without_a_path_is_of_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no run in runs" in said("report", capsys=capsys)
    for name, age in (("b", 500), ("c", 10), ("a", 300)):
        folder = Path("runs") / name / "inner" if name == "c" else Path("runs") / name
        run_folder(folder)
        for file in folder.iterdir():
            if file.is_file():
                os.utime(file, (2e9 - age, 2e9 - age))
    (Path("runs") / "empty").mkdir()
    assert newest(Path("runs")) == Path("runs/c")
    out = said("report", capsys=capsys, code=0)
    assert out.startswith("the newest run: runs/c\n") and Path("runs/c/report/index.html").exists()


def test_an_arm_that_is_not_trained_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("topk_ortho.report.summary.draw", lambda path: [])
    run_folder(tmp_path / "one")
    assert ALONE in finish(tmp_path / "one")
    run_folder(tmp_path / "one" / "baseline", criterion="none")
    assert ALONE not in finish(tmp_path / "one")
    run_folder(tmp_path / "none", criterion="none")
    assert ALONE not in finish(tmp_path / "none")


LANGUAGE = TrainConfig(
    model="m",
    hook="blocks.0.hook_resid_post",
    text=("a.txt", "b.txt"),
    context=64,  # type: ignore[arg-type]
)


def run_of(config: TrainConfig, folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.toml").write_text(config_text(config))
    return folder


def given(*words: str) -> absorption.Options:
    return build(absorption.Options, read(absorption.Options, words, prog="absorption"))


def test_absorption_takes_what_the_run_says(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("text")
    run = run_of(LANGUAGE, tmp_path / "run")
    own = absorption.with_its_own(given(str(run), "--classes", "c.toml"))
    assert (own.model, own.hook, own.context) == ("m", LANGUAGE.hook, 64)
    assert own.text == (tmp_path / "a.txt", tmp_path / "b.txt")
    other = given(str(run), "--classes", "c.toml", "--model", "n", "--context", "32", "--text", "x")
    changed = absorption.with_its_own(other)
    assert (changed.model, changed.context, changed.text) == ("n", 32, (Path("x"),))


def test_what_nothing_says_is_asked_for(tmp_path: Path) -> None:
    run = run_of(TrainConfig(model="m", hook="h", dataset="d"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"given without --text, but it is no run .*; add it"):
        absorption.with_its_own(given(str(run), "--classes", "c.toml"))


def test_a_repair_reads_the_data_of_the_run(tmp_path: Path) -> None:
    config = TrainConfig(seed=3, steps=9)
    run = run_of(config, tmp_path / "run")
    found = own_data(run, given=["sae", "steps"])
    assert found["seed"] == 3 and found["activations"] == "synthetic"
    assert found["synthetic.preset"] == "forest-240" and "steps" not in found
    assert own_data(run, given=["sae", "data"]) == own_data(run, given=["synthetic.noise"]) == {}
    (tmp_path / "sae").mkdir()
    with pytest.raises(ConfigError, match="was given without data, but it is not a run folder"):
        own_data(tmp_path / "sae", given=["sae", "out"])


@pytest.mark.slow
def test_a_run_is_repaired_by_its_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.system.tiny_run import tiny

    monkeypatch.chdir(tmp_path)
    train(tiny("--seed", "3"), "run", progress=False)
    out = said("repair", "run", "--steps", "5", "--out", "r", capsys=capsys, code=0)
    assert "repaired SAE (saelens): r/repaired" in out
    assert repair.repairing(read(repair.Options, ["run"], prog="repair")).settings.seed == 3
