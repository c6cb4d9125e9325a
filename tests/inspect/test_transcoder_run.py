"""A finished transcoder in the commands: measured as in its run, or refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import tiny_llama
from tests.inspect.conftest import language_model
from tests.system.tiny_run import assert_same, over, tiny
from topk_ortho.cli import main
from topk_ortho.inspect.reproduce import reproduce
from topk_ortho.training import train
from topk_ortho.training.side_by_side import train_side_by_side

MID, OUT = "blocks.0.hook_resid_mid", "blocks.0.hook_mlp_out"


@pytest.fixture(scope="module")
def transcoder(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    folder = tmp_path_factory.mktemp("transcoder") / "run"
    options = over(language_model(text), "--hook", MID, "--hook-out", OUT, "--max-norm", "3")
    train(tiny(base=options), folder, progress=False)
    return folder


def test_evaluate_measures_what_the_run_did(
    transcoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(transcoder), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    result = json.loads((transcoder / "result.json").read_text())
    for name in ("explained_variance", "l0", "ce_score", "kl_score", "ce_zero", "rows"):
        assert record["figures"][name] == pytest.approx(result[name], rel=1e-3), name
    assert record["sae"]["hook_out"] == record["data"]["hook_out"] == OUT
    assert record["saelens"] is None
    assert main(["evaluate", str(transcoder)]) == 0
    said = capsys.readouterr().out
    assert "d_out 32 (transcoder)" in said and f"at {MID} to {OUT}" in said


def test_an_exported_transcoder_names_its_hook_points(
    transcoder: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sae = str(transcoder / "sae")
    assert main(["evaluate", sae, "--text", str(text), "--context", "16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["hook_out"] == OUT


def test_pairs_and_reproduce_take_one(transcoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pairs", str(transcoder), "--top", "2"]) == 0
    capsys.readouterr()
    assert reproduce(transcoder).equal


LLAMA = str(tiny_llama.shared())
REFUSED = [
    (["absorption", "RUN", "--classes", "c.json", "--hook", MID], "absorption takes SAEs"),
    (["repair", "RUN", "--hook", MID], "topk-ortho repair takes SAEs"),
    (["repair", "RUN", "--hook", MID, "--hook-out", OUT], "topk-ortho repair takes SAEs"),
    (["evaluate", "RUN", "--suite", "saebench"], "SAEBench takes SAEs"),
    (["evaluate", "RUN", "--hook-out", "blocks.1.hook_mlp_out"], f"names {OUT} as its own"),
    (["evaluate", "RUN", "--activations", "synthetic", "--synthetic.d-in", "32"],
     "transcoder was given without what it reconstructs"),
    (["evaluate", "SAE", "--hook-out", "blocks.1.hook_mlp_out"], "the SAE is no transcoder"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_takes_no_transcoder_says_so(
    arguments: list[str],
    message: str,
    transcoder: Path,
    language: Path,
    text: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"RUN": str(transcoder), "SAE": str(language)}
    given = [places.get(word, word) for word in arguments]
    if "evaluate" not in given:
        given += ["--model", LLAMA, "--text", str(text)]
    assert main(given) == 2
    assert message in capsys.readouterr().err


def test_transcoders_side_by_side_are_those_that_train_alone(
    transcoder: Path, text: Path, tmp_path: Path
) -> None:
    options = over(language_model(text), "--hook", MID, "--hook-out", OUT, "--max-norm", "3")
    configs = {k: tiny("--sae.k", k, base=options) for k in ("4", "2")}
    train_side_by_side(configs, tmp_path / "runs", progress=False)
    assert_same(tmp_path / "runs" / "4", transcoder)
