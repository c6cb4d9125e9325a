"""`reproduce`: equal runs, every kind of difference, and data that changed or went away."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.inspect.conftest import SHORT, language_model
from tests.system.tiny_run import tiny
from topk_ortho import cli
from topk_ortho.inspect.reproduce import compare_folders, reproduce
from topk_ortho.inspect.reproduce.comparison import is_measured
from topk_ortho.training import Interrupted, train

STEPS = 30
TRAIN = "topk_ortho.inspect.reproduce.reproduction.train"


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def change(path: Path, **figures: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | figures), encoding="utf-8")


def differing(then: Path, now: Path) -> list[tuple[str, str]]:
    return [(d.file, d.what) for d in compare_folders(then, now, step=STEPS).differing]


def test_the_same_run_again_is_the_same(synthetic, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = contents(synthetic)
    assert cli.main(["reproduce", str(synthetic)]) == 0
    text = capsys.readouterr().out
    assert "reproduced bit for bit" in text
    for part in ("result.json", "ground_truth.json", "metrics.jsonl", "history.bin",
                 "sae/sae_weights.safetensors", f"checkpoints/step_{STEPS}/tensors.safetensors",
                 "baseline/result.json", "baseline/sae/sae_weights.safetensors"):  # fmt: skip
        assert part in text
    assert "left out: times (seconds, step_ms" in text
    assert contents(synthetic) == before
    assert not list(tmp_path.iterdir()), "the second run was left behind"


def test_a_kept_second_run_and_json(synthetic, tmp_path, capsys):
    out = tmp_path / "again"
    arguments = ["reproduce", str(synthetic), "--out", str(out), "--json"]
    assert cli.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["equal"], found["differing"], found["again"]) == (True, [], str(out))
    assert (out / "result.json").is_file()
    assert cli.main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_run_that_was_interrupted_is_reproduced_by_one_that_was_not(tmp_path):
    from topk_ortho.training import resume

    with pytest.raises(Interrupted):
        train(tiny(*SHORT), tmp_path / "run", stop_after=13, progress=False)
    resume(tmp_path / "run", progress=False)
    assert reproduce(tmp_path / "run").equal


def test_another_number_is_told(synthetic, tmp_path, capsys):
    folder = copied(synthetic, tmp_path)
    result = json.loads((folder / "result.json").read_text())
    nearly = result["mcc"] * (1 + 2**-52)
    change(folder / "result.json", mcc=nearly)
    assert cli.main(["reproduce", str(folder)]) == 1
    text = capsys.readouterr().out
    assert "NOT reproduced: 1 numbers differ" in text
    assert f"result.json, mcc: {nearly} then, {result['mcc']} now" in text
    assert "give --out FOLDER to keep it" in text


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def drop_a_line(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")


@pytest.mark.parametrize(
    ("name", "damage", "what"),
    [
        ("result.json", lambda p: change(p, l0=None), "l0"),
        ("result.json", lambda p: change(p, another=1.0), "another"),
        ("result.json", lambda p: p.write_text("{"), "the whole file"),
        ("ground_truth.json", lambda p: change(p, rows=1), "rows"),
        ("metrics.jsonl", drop_a_line, "step 30.loss"),
        ("metrics.jsonl", lambda p: p.write_text("x"), "the whole file"),
        ("history.bin", flip, "its bytes"),
        ("history.bin", Path.unlink, "its bytes"),
        ("sae/sae_weights.safetensors", flip, "b_dec"),
        ("sae/sae_weights.safetensors", Path.unlink, "the whole file"),
        ("sae/sae_weights.safetensors", lambda p: p.write_bytes(b"x"), "the whole file"),
        (f"checkpoints/step_{STEPS}/tensors.safetensors", flip, "adam"),
        ("baseline/result.json", lambda p: change(p, mcc=0.0), "mcc"),
        ("baseline/sae/sae_weights.safetensors", flip, "b_dec"),
    ],
)
def test_every_file_is_compared(synthetic, tmp_path, name, damage, what):
    folder = copied(synthetic, tmp_path)
    assert differing(folder, synthetic) == []
    damage(folder / name)
    found = differing(folder, synthetic)
    assert {file for file, _ in found} == {name}
    if name.endswith(".safetensors"):
        assert len(found) == 1
    else:
        assert what in [w for _, w in found]


def test_a_baseline_that_is_gone_is_told(synthetic, tmp_path):
    folder = copied(synthetic, tmp_path)
    shutil.rmtree(folder / "baseline")
    assert "baseline/sae/sae_weights.safetensors" in {f for f, _ in differing(synthetic, folder)}


def test_times_and_memory_are_left_out(synthetic, tmp_path):
    folder = copied(synthetic, tmp_path)
    change(folder / "result.json", seconds=1e9, step_ms=0.0)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    changed = [line | {"tokens_per_second": 1, "memory_allocated": 2} for line in lines]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))
    assert differing(folder, synthetic) == []


@pytest.mark.parametrize("key", ["seconds", "a.step_ms", "step 7.memory_reserved", "select_ms"])
def test_what_is_measured(key):
    assert is_measured(key)


@pytest.mark.parametrize("key", ["mcc", "seed", "steps", "counts.mcc.used", "step 7.loss"])
def test_what_is_not(key):
    assert not is_measured(key)


def test_figures_that_the_first_run_lacks_are_no_difference(synthetic, tmp_path, capsys):
    folder = copied(synthetic, tmp_path)
    (folder / "ground_truth.json").unlink()
    result = json.loads((folder / "result.json").read_text())
    del result["counts"]
    (folder / "result.json").write_text(json.dumps(result))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["versions"]["torch"] = "1.0"
    del manifest["data"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main(["reproduce", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "not in the first run: " in text
    assert "ground_truth.json, result.json" in text
    assert "versions, torch: 1.0 then" in text
    assert "the first run did not record its files" in text


def test_log_keys_that_the_first_run_lacks_are_no_difference(synthetic, tmp_path):
    folder = copied(synthetic, tmp_path)
    log = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        del line["score_share_top_rows"]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    compared = compare_folders(folder, synthetic, step=STEPS)
    assert compared.differing == []
    assert "metrics.jsonl, step 30.score_share_top_rows" in compared.only_now
    assert differing(synthetic, folder), "a key that has gone is a difference"


# --- data ----------------------------------------------------------------------------------------


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("trained on data that cannot give the same figures")

    monkeypatch.setattr(TRAIN, refuse)


@pytest.fixture
def own(text, tmp_path) -> tuple[Path, Path]:
    """A run with a text of its own, to change."""
    mine = tmp_path / "mine.txt"
    shutil.copy(text, mine)
    train(tiny(base=language_model(mine)), tmp_path / "run", progress=False)
    return tmp_path / "run", mine


def test_a_language_model_run_is_reproduced(language, capsys):
    assert cli.main(["reproduce", str(language)]) == 0
    assert "bit for bit" in capsys.readouterr().out


@pytest.mark.fault("text that changed after the run")
@pytest.mark.usefixtures("no_training")
def test_text_that_changed_far_behind_its_first_rows(own, capsys):
    folder, text = own
    text.write_text(text.read_text()[:-1] + "!")
    assert cli.main(["reproduce", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "was not run again" in out
    assert f"{text} was changed" in out


@pytest.mark.fault("text that is gone after the run")
@pytest.mark.usefixtures("no_training")
def test_text_that_is_missing(own, capsys):
    folder, text = own
    text.unlink()
    assert cli.main(["reproduce", str(folder)]) == 1
    assert f"{text} is missing" in capsys.readouterr().out
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["data"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main(["reproduce", str(folder), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert "its data is not available" in found["not_run"]
    assert (found["equal"], found["compared"]) == (False, [])


@pytest.mark.usefixtures("no_training")
def test_other_data_of_a_run_that_recorded_no_files(own, capsys):
    folder, text = own
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["data"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    text.write_text("Zzz! ZZ zz.\n\n" * 300)
    assert cli.main(["reproduce", str(folder)]) == 1
    assert "its scale was" in capsys.readouterr().out


def test_an_interruption_keeps_nothing_and_says_so(synthetic, monkeypatch, capsys, tmp_path):
    def stop(config, out, **how):
        raise Interrupted(f"resume with: --resume {out}", number=signal.SIGINT)

    monkeypatch.setattr(TRAIN, stop)
    assert cli.main(["reproduce", str(synthetic)]) == 130
    assert "nothing of the second run was kept" in capsys.readouterr().err
    assert cli.main(["reproduce", str(synthetic), "--out", str(tmp_path / "again")]) == 130
    assert "--resume" in capsys.readouterr().err


def test_a_run_that_is_not_finished_is_refused(synthetic, tmp_path, capsys):
    folder = copied(synthetic, tmp_path)
    (folder / "result.json").unlink()
    assert cli.main(["reproduce", str(folder)]) == 2
    assert "--resume" in capsys.readouterr().err
