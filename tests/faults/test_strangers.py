"""Untrusted files are refused and never run; untrusted strings stay strings."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import topk_ortho.train as command
from tests.conftest import unpickled
from tests.pickle_watch.sitecustomize import CODE
from tests.system.tiny_run import SYNTHETIC, tiny
from tests.training.states import state
from topk_ortho import formats
from topk_ortho.activations.files import FilesSource
from topk_ortho.checkpoint.store import CheckpointError, load, newest, save
from topk_ortho.cli import main
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.toml import config_hash, config_text, read_config
from topk_ortho.constraint.history import PairHistory
from topk_ortho.formats import saelens
from topk_ortho.terminal import printable
from topk_ortho.training import Interrupted, train
from topk_ortho.training.events import EventLog
from topk_ortho.training.folder import new_run_path
from topk_ortho.training.step import train_step

HOSTILE = {
    "markup": "</script><script>alert(1)</script>\"'&",
    "control characters": "\x1b]0;title\x07\x1b[2J\r\x08",
    "a line break": "x\nerror: all is well",
    "path separators": "../../etc/passwd",
    "marks of direction": "\u202etxt.exe\u200b",
}


# Checkpoints that are whole, and hold something else


def a_checkpoint(tmp_path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], bytes]:
    s = state(penalty={"tau": "stability"})
    for _ in range(3):
        train_step(s, s.buffer.next())
    history = s.history()
    assert history is not None
    path = save(tmp_path, 3, tensors=s.tensors(), state=s.numbers(),
                blobs={"history.bin": history})  # fmt: skip
    read = load(path)
    return read.tensors, read.state, read.blobs["history.bin"]


def changed(name: str, value: Callable[[torch.Tensor], torch.Tensor] | None):
    def change(tensors: dict, numbers: dict, history: bytes) -> bytes:
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value(tensors[name])
        return history

    return change


def told(name: str, value: object):
    def change(tensors: dict, numbers: dict, history: bytes) -> bytes:
        if value is None:
            del numbers[name]
        else:
            numbers[name] = value
        return history

    return change


OTHER = {
    "a tensor missing": changed("sae.W_enc", None),
    "a tensor of another shape": changed("sae.W_dec", lambda t: t[:-1]),
    "moments missing": changed("adam.W_dec.exp_avg", None),
    "moments of another shape": changed("adam.W_dec.exp_avg", lambda t: t[:3]),
    "moments of another type": changed("adam.W_enc.exp_avg_sq", lambda t: t.half()),
    "firing rates missing": changed("firing.rate", None),
    "firing rates of another length": changed("firing.silent", lambda t: t[:5]),
    "pairs missing": changed("selection.i", None),
    "pairs of features that do not exist": changed("selection.j", lambda t: t + 10**6),
    "a number missing": told("cursor", None),
    "a number that is text": told("step", "many"),
    "a negative step": told("step", -5),
    "a position before the data": told("cursor", {"epoch": 0, "block": -1, "row": 0}),
    "a position that is no number": told("cursor", {"epoch": 0, "block": 1.5, "row": 0}),
    "a selection of unknown parts": told("selection", {"selected_at": 1, "evil": True}),
    "other data": told("variance", 3.0),
    "a history of other bytes": lambda tensors, numbers, history: history[:-3] + b"abc",
    "a history that is empty": lambda tensors, numbers, history: b"",
}


@pytest.mark.fault("a whole checkpoint that holds something else")
@pytest.mark.parametrize("name", OTHER)
def test_a_checkpoint_of_something_else_is_refused(name, tmp_path) -> None:
    tensors, numbers, history = a_checkpoint(tmp_path)
    state(penalty={"tau": "stability"}).restore(tensors, numbers, history)
    history = OTHER[name](tensors, numbers, history)
    fresh = state(penalty={"tau": "stability"})
    with pytest.raises(ConfigError, match=r"checkpoint|history"):
        fresh.restore(tensors, numbers, history)


@pytest.mark.fault("JSON nested beyond the parser's stack")
@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
def test_json_that_is_nested_too_deeply_is_damage(name, tmp_path) -> None:
    path = save(tmp_path, 3, tensors={}, state={})
    (path / name).write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="not valid"):
        load(path)
    assert newest(tmp_path) is None
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1}\n' + "[" * 200_000 + "\n")
    EventLog(log, keep_until=5).close()
    assert log.read_text() == '{"step": 1}\n'


@pytest.mark.fault("a checkpoint that reaches outside of its directory")
def test_files_of_a_manifest_are_those_beside_it(tmp_path) -> None:
    (tmp_path / "secret").write_text("mine")
    path = save(tmp_path, 3, tensors={}, state={}, blobs={"x": b"mine"})
    manifest = json.loads((path / "manifest.json").read_bytes())
    manifest["files"]["../secret"] = manifest["files"].pop("x")
    (path / "x").unlink()
    del manifest["sha256"]
    from topk_ortho.checkpoint.store import _canonical, hashlib

    digest = hashlib.sha256(_canonical(manifest)).hexdigest()
    (path / "manifest.json").write_bytes(_canonical({**manifest, "sha256": digest}))
    with pytest.raises(CheckpointError, match=r"expected .*\.\./secret"):
        load(path)


# Pickles


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.fault("a pickle in place of a file")
@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json", "history",
                                  "sae_weights.safetensors", "cfg.json", "shard.npy",
                                  "shard.safetensors", "config.toml"])  # fmt: skip
def test_a_pickle_is_refused_and_does_not_run(name, tmp_path) -> None:
    mark, folder = tmp_path / "ran", tmp_path / "data"
    evil = pickle.dumps(Payload(mark))
    folder.mkdir()
    if name == "history":
        with pytest.raises(ValueError, match=r"history|bytes|magic"):
            PairHistory.from_bytes(evil)
    elif name in ("sae_weights.safetensors", "cfg.json"):
        path = folder / "sae"
        path.mkdir()
        for file in ("sae_weights.safetensors", "cfg.json"):
            (path / file).write_bytes(evil if file == name else b"{}")
        with pytest.raises(ConfigError, match=r"not a readable SAE|no metadata"):
            saelens.read(path)
    elif name.startswith("shard"):
        (folder / name).write_bytes(evil)
        with pytest.raises(ConfigError, match="cannot be read"):
            FilesSource(folder)
    elif name == "config.toml":
        (folder / name).write_bytes(evil)
        with pytest.raises(ConfigError, match="is not TOML"):
            read_config(folder / name)
    else:
        path = save(folder, 3, tensors={"x": torch.ones(2)}, state={})
        (path / name).write_bytes(evil)
        with pytest.raises(CheckpointError, match="not valid"):
            load(path)
    assert not mark.exists()


@pytest.mark.fault("a pickle in place of a file")
@pytest.mark.parametrize(
    ("layout", "file"),
    [(layout, file) for layout, files in formats.FILES.items() for file in files]
    + [("run", "config.toml")],
)
def test_evaluate_runs_no_pickle(layout, file, tmp_path, capsys) -> None:
    mark, folder = tmp_path / "ran", tmp_path / "sae"
    files = ("config.toml", "sae_weights.safetensors") if layout == "run" else formats.FILES[layout]
    folder.mkdir()
    for name in files:
        (folder / name).write_bytes(b"{}")
    if layout == "dictionary-learning":
        (folder / "config.json").write_text('{"trainer": {"dict_class": "AutoEncoder"}}')
    (folder / file).write_bytes(pickle.dumps(Payload(mark)))
    assert main(["evaluate", str(folder), "--allow-pickle", *SYNTHETIC]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert not mark.exists()


CULPRIT = "import pickle\n\ndef run():\n    return pickle.loads(pickle.dumps(print))\n"


@pytest.mark.fault("a pickle that the package itself opens")
def test_what_the_package_unpickles_fails_the_test() -> None:
    space: dict[str, Any] = {"__name__": "topk_ortho.culprit"}
    exec(compile(CULPRIT, "culprit.py", "exec"), space)
    pickle.loads(pickle.dumps(print))
    assert unpickled == []
    space["run"]()
    assert unpickled == ["builtins.print by culprit.py:4"]
    unpickled.clear()


@pytest.mark.fault("a pickle that the package itself opens")
@pytest.mark.parametrize(("name", "code"), [("topk_ortho.culprit", CODE), ("other", 0)])
def test_a_subprocess_ends_where_the_package_unpickles(name, code, run, tmp_path) -> None:
    (tmp_path / "culprit.py").write_text(CULPRIT)
    call = f"import runpy; runpy.run_path('culprit.py', run_name={name!r})['run']()"
    done = run(["-c", call], module="")
    assert done.returncode == code, done.stderr
    assert ("unpickled builtins.print by" in done.stderr) == (code == CODE)


# Strings


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.fault(f"a string with {name}")) for name in HOSTILE
])  # fmt: skip
def test_names_reach_the_terminal_spelled_out(name, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(["--resume", HOSTILE[name]]) == 2
    assert command.main(["--activations", "files", "--data", HOSTILE[name], "--out", "r"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 2 and said.startswith("error: ")
    assert all(c.isprintable() or c == "\n" for c in said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.fault(f"a string with {name}"))
    for name in HOSTILE if name != "path separators"
])  # fmt: skip
def test_a_run_folder_may_have_any_name(name, tmp_path, capsys, caplog) -> None:
    folder = tmp_path / HOSTILE[name].replace("/", "∕")
    config = tiny("--steps", "4", "--checkpoint-every", "2", "--log-every", "2")
    with pytest.raises(Interrupted):
        train(config, folder, stop_after=3, progress=False)
    (folder / "checkpoints" / "step_3" / "state.json").write_text("{}")
    assert command.main(["--resume", str(folder)]) == 0
    out = capsys.readouterr().out
    assert f"run folder: {printable(str(folder))}" in out
    assert all(c.isprintable() or c == "\n" for c in out)
    assert "step_3 is not valid" in caplog.text
    assert all(c.isprintable() for record in caplog.records for c in record.getMessage())
    assert {p.name for p in tmp_path.iterdir()} == {folder.name}


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.fault(f"a string with {name}"))
    for name in HOSTILE
])  # fmt: skip
def test_values_come_back_and_name_no_files(name, tmp_path) -> None:
    text = HOSTILE[name]
    config = replace(TrainConfig(), model=text, hook=text, dataset=text, text=(Path(text),))
    (tmp_path / "config.toml").write_text(config_text(config), encoding="utf-8")
    assert read_config(tmp_path / "config.toml") == config
    assert new_run_path(config, tmp_path).parent == tmp_path
    assert config_hash(config).isalnum()
    log = EventLog(tmp_path / "metrics.jsonl", keep_until=0)
    log.write({"step": 1, "said": text})
    log.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["said"] == text and line.isprintable()


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.fault(f"a string with {name}")) for name in HOSTILE
])  # fmt: skip
def test_evaluate_spells_out_what_a_strangers_sae_is_called(name, tmp_path, capsys) -> None:
    """Its folder's name, and the model and hook point that it names itself."""
    folder, text = tmp_path / HOSTILE[name].replace("/", "∕"), tmp_path / "text.txt"
    text.write_text("Once.")
    W = torch.eye(24)
    saelens.export(folder, kind="relu", W_enc=W, b_enc=torch.zeros(24), W_dec=W,
                   b_dec=torch.zeros(24), threshold=None, k=2, hook=HOSTILE[name],
                   model=f"/{HOSTILE[name]}")  # fmt: skip
    before = set(tmp_path.iterdir())
    out = tmp_path / "figures.json"
    few = [*SYNTHETIC, "--eval-samples", "64"]
    assert main(["evaluate", str(folder), *few, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert f"SAE   {printable(str(folder))}: relu" in shown
    assert json.loads(out.read_text())["sae"]["path"] == str(folder)
    assert out.read_text().isascii()
    assert main(["evaluate", str(folder), "--text", str(text)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert all(c.isprintable() or c == "\n" for c in shown + said)
    assert set(tmp_path.iterdir()) == before | {out}


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.fault(f"a string with {name}")) for name in HOSTILE
])  # fmt: skip
def test_the_exported_sae_holds_them_as_text(name, tmp_path) -> None:
    folder, weights = tmp_path / "sae", np.random.default_rng(0).normal(size=(6, 3))
    W = torch.from_numpy(weights.astype(np.float32))
    saelens.export(folder, kind="relu", W_enc=W.T.contiguous(), b_enc=torch.zeros(6), W_dec=W,
                   b_dec=torch.zeros(3), threshold=None, k=2, hook=HOSTILE[name],
                   model=HOSTILE[name])  # fmt: skip
    assert {p.name for p in tmp_path.iterdir()} == {"sae"}
    assert {p.name for p in folder.iterdir()} == {"cfg.json", "sae_weights.safetensors"}
    text = (folder / "cfg.json").read_text()
    assert all(c.isprintable() or c == "\n" for c in text)
    assert saelens.read(folder)["hook"] == HOSTILE[name]
    assert set(load_file(folder / "sae_weights.safetensors")) == {
        "W_enc",
        "W_dec",
        "b_enc",
        "b_dec",
    }
