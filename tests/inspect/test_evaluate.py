"""`topk-ortho evaluate`: figures, data of a run and of options, the health gate, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny_llama
from tests.system.tiny_run import tiny
from topk_ortho import load_sae
from topk_ortho.activations import same_data
from topk_ortho.cli import main
from topk_ortho.commands import evaluate as command
from topk_ortho.commands.reader import build, read
from topk_ortho.commands.reader.data import data_settings
from topk_ortho.config import ConfigError
from topk_ortho.config.toml import config_text
from topk_ortho.formats import saelens
from topk_ortho.inspect.evaluate.asked import Asked, understand
from topk_ortho.machine import phases
from topk_ortho.training import train

HOOK = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on synthetic data."""
    out = tmp_path_factory.mktemp("evaluate") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("topk_ortho.training.evaluation.CALIBRATION_ROWS", 2048)
        train(tiny("--steps", "120"), out, progress=False)
    return out


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_text("\n\n".join(tiny_llama.stories(60)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def sae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an SAE for the tiny model, its directions those of the axes."""
    axes = torch.eye(tiny_llama.D_MODEL)
    return saelens.export(
        tmp_path_factory.mktemp("saes") / "axes",
        kind="relu",
        W_enc=torch.cat([axes, -axes], 1),
        b_enc=torch.zeros(64),
        W_dec=torch.cat([axes, -axes]),
        b_dec=torch.zeros(32),
        threshold=None,
        k=16,
        hook=HOOK,
        model=str(tiny_llama.shared()),
    )


@pytest.fixture(scope="module")
def other_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Activations that say they are of another hook point than `sae`."""
    folder = tmp_path_factory.mktemp("shards")
    np.save(folder / "a.npy", torch.randn(200, tiny_llama.D_MODEL).numpy())
    (folder / "source.json").write_text(json.dumps({"hook": "blocks.1.hook_resid_post"}))
    return folder


def evaluate(*arguments: Any, tmp_path: Path) -> dict[str, Any]:
    """Run the command; the JSON that it wrote."""
    out = tmp_path / "figures.json"
    assert main(["evaluate", *map(str, arguments), "--out", str(out)]) == 0
    return json.loads(out.read_text())


def test_a_run_on_its_own_data_has_the_figures_that_it_ended_with(run, tmp_path):
    found = evaluate(run, tmp_path=tmp_path)
    result = json.loads((run / "result.json").read_text())
    assert found["figures"]["rows"] == result["rows"] == 512
    for name, value in found["figures"].items():
        expected = result[name]
        close = expected if expected is None else pytest.approx(expected, rel=1e-5, abs=1e-9)
        assert value == close, name
    assert {"absorption_rate", "excess", "mcc", "f1_child"} <= set(found["figures"])
    assert found["counts"] == result["counts"]
    assert found["ground_truth"] == json.loads((run / "ground_truth.json").read_text())
    assert (found["data"]["split"], found["data"]["planted"]) == ("eval", False)
    assert found["saelens"] is None


def test_histogram_counts_every_feature(run, tmp_path):
    found = evaluate(run, tmp_path=tmp_path)
    histogram, dead = found["frequency_histogram"], found["counts"]["dead_features"]
    assert histogram["never"] == dead["numerator"]
    assert histogram["never"] + sum(histogram["features"]) == 64


def of_language(text: Path) -> list[str]:
    """Options of a run on the tiny model."""
    options = ["--activations", "language-model", "--model", str(tiny_llama.shared())]
    return [*options, "--text", str(text), "--hook", HOOK, "--context", "16", "--sae.kind", "topk"]


def test_units_are_those_of_the_model(tmp_path, text):
    """A run on scaled activations is measured on the model's own."""
    out = tmp_path / "run"
    train(tiny(*of_language(text)), out, progress=False)
    found = evaluate(out, tmp_path=tmp_path)
    result = json.loads((out / "result.json").read_text())
    assert abs(result["scale"] - 1) > 0.01
    for name in ("explained_variance", "l0", "cosine_similarity", "ce_score", "kl_score"):
        assert found["figures"][name] == pytest.approx(result[name], rel=1e-4), name
    in_units = result["mse"] / result["scale"] ** 2
    assert found["figures"]["mse"] == pytest.approx(in_units, rel=1e-4)
    assert found["data"]["model"] == str(tiny_llama.shared())
    assert found["data"]["split"] == "eval"
    planted = evaluate(out, "--plant", "--plant.roots", 2, tmp_path=tmp_path)
    assert planted["data"]["planted"]
    assert planted["data"]["split"] == "eval"
    assert planted["figures"]["absorption_rate"] is not None
    assert "ce_score" not in planted["figures"]


def test_a_planted_run_has_the_figures_that_it_ended_with(tmp_path, text):
    out = tmp_path / "run"
    train(tiny(*of_language(text), "--plant.enabled", "--plant.roots", "2"), out, progress=False)
    found = evaluate(out, tmp_path=tmp_path)
    result = json.loads((out / "result.json").read_text())
    assert (found["data"]["planted"], found["data"]["split"]) == (True, "eval")
    assert abs(result["scale"] - 1) > 0.01
    in_units = result["mse"] / result["scale"] ** 2
    assert found["figures"]["mse"] == pytest.approx(in_units, rel=1e-4)
    assert result["absorption_rate"] is not None
    for name in ("rows", "absorption_rate", "excess", "base_miss", "mcc", "explained_variance"):
        assert found["figures"][name] == pytest.approx(result[name], rel=1e-4), name


@pytest.mark.parametrize(
    ("options", "split"),
    [
        ([], "eval"),
        (["--eval-samples", "9"], "eval"),
        (["--hook", "blocks.1.hook_resid_post"], "eval"),
        (["--plant"], "eval"),
        (["--split", "all"], "all"),
        (["--text", "OTHER"], "all"),
        (["--text", "OTHER", "--split", "eval"], "eval"),
        (["--dataset", "other"], "all"),
        (["--data", "SHARDS"], "all"),
        (["--activations", "synthetic"], "eval"),
        (["--activations", "synthetic", "--split", "all"], "eval"),  # it never ends
    ],
)
def test_what_a_run_on_text_is_measured_on(options, split, text, tmp_path):
    """What its own text held out, or all of another one."""
    run, other = tmp_path / "run", tmp_path / "other.txt"
    (tmp_path / "shards").mkdir()
    run.mkdir()
    other.write_text("Another one.")
    (run / "config.toml").write_text(config_text(tiny(*of_language(text))), encoding="utf-8")
    named = {"OTHER": str(other), "SHARDS": str(tmp_path / "shards")}
    found = asked(run, *(named.get(word, word) for word in options))
    assert found.split == split
    if "--text" in options:
        assert found.config.text == (other,)
    elif not {"--dataset", "--data", "--activations"} & set(options):
        assert found.config.text == (text,)


def test_anyones_sae_with_model_and_text(sae, text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(phases, "PATIENCE", 0.0)
    found = evaluate(sae, "--text", text, "--context", 16, tmp_path=tmp_path)
    figures = found["figures"]
    assert figures["explained_variance"] == pytest.approx(1, abs=1e-6)
    assert figures["mse"] == pytest.approx(0, abs=1e-9)
    assert figures["relative_reconstruction_bias"] == pytest.approx(1)
    assert figures["ce_score"] == pytest.approx(1, abs=1e-4)
    assert figures["l0"] == pytest.approx(32, abs=0.01)
    assert found["data"]["split"] == "all"
    assert found["saelens"]["sparsity"]["l0"] == figures["l0"]
    shown = capsys.readouterr()
    assert "ce_loss_score" in shown.out
    assert "reconstruction: " in shown.err and "model behaviour: " in shown.err
    assert "health: good" in shown.out


@pytest.mark.fault("an SAE of another hook point or model")
def test_another_hook_is_measured_where_it_is_meant(sae, other_shards, tmp_path):
    with pytest.warns(UserWarning, match="measured there anyway"):
        found = evaluate(sae, "--data", other_shards, "--allow-mismatch", tmp_path=tmp_path)
    assert found["figures"]["rows"] == 200
    assert found["sae"]["hook"] == HOOK


def test_every_row_of_a_text_is_measured_once(sae, text, tmp_path):
    from topk_ortho.activations.models import LanguageModel
    from topk_ortho.activations.text import pack_contexts, text_documents

    model = LanguageModel.load(tiny_llama.shared())
    contexts = pack_contexts(model.tokenizer, text_documents([text]), 16)
    used = len(contexts) - len(contexts) % 32  # whole blocks
    rows = int((contexts[:used] != model.bos).sum())
    found = evaluate(sae, "--text", text, "--context", 16, tmp_path=tmp_path)
    assert (found["figures"]["rows"], found["data"]["contexts"]) == (rows, used)
    some = evaluate(sae, "--text", text, "--context", 16, "--eval-samples", 100, tmp_path=tmp_path)
    assert 100 <= some["figures"]["rows"] < 116


def test_synthetic_data_gives_ground_truth_for_any_sae(run, tmp_path):
    shape = ["--synthetic.d-in", "24", "--synthetic.roots", "4", "--synthetic.children", "2"]
    options = [*shape, "--synthetic.independent", "12", "--eval-samples", "512"]
    of_folder = evaluate(run / "sae", *options, tmp_path=tmp_path)
    assert of_folder["figures"] == evaluate(run, tmp_path=tmp_path)["figures"]


def test_files_of_activations(run, tmp_path):
    import numpy as np

    shards = tmp_path / "shards"
    shards.mkdir()
    rows = torch.randn(600, 24, generator=torch.Generator().manual_seed(0))
    np.save(shards / "x.npy", rows.numpy())
    found = evaluate(run / "sae", "--data", shards, tmp_path=tmp_path)
    sae = load_sae(run)
    with torch.no_grad():
        expected = (rows - sae.decode(sae.encode(rows))).square().mean().item()
    assert found["figures"]["rows"] == 600
    assert found["figures"]["mse"] == pytest.approx(expected, rel=1e-5)


def test_data_that_was_changed_holds_nothing_out(tmp_path, capsys):
    import numpy as np

    shards, out = tmp_path / "shards", tmp_path / "run"
    shards.mkdir()
    rows = np.random.default_rng(0).standard_normal((1200, 24), dtype=np.float32)
    np.save(shards / "x.npy", rows)
    files = ["--activations", "files", "--data", str(shards), "--sae.kind", "topk"]
    train(tiny("--steps", "8", *files), out, progress=False)
    assert evaluate(out, tmp_path=tmp_path)["data"]["split"] == "eval"
    np.save(shards / "x.npy", rows[::-1])
    same_data._cached.cache_clear()  # of one process; files do not change under an ablation
    assert main(["evaluate", str(out)]) == 2
    said = capsys.readouterr().err
    assert "x.npy is not what it was" in said and "--split all" in said
    assert evaluate(out, "--split", "all", tmp_path=tmp_path)["data"]["split"] == "all"


def test_absorption_of_an_unhealthy_sae_is_marked_invalid(run, tmp_path, capsys):
    broken = tmp_path / "broken"
    stored = saelens.read(run / "sae")
    weights = {name: stored[name] for name in ("W_enc", "b_enc", "b_dec", "threshold")}
    saelens.export(broken, kind="batch-topk", W_dec=-stored["W_dec"], **weights, k=4, hook="",
                   model="")  # fmt: skip
    shape = ["--synthetic.d-in", "24", "--synthetic.roots", "4", "--synthetic.children", "2"]
    found = evaluate(broken, *shape, "--synthetic.independent", 12, tmp_path=tmp_path)
    assert found["health"]["healthy"] is False
    assert "explained variance" in found["health"]["reason"]
    assert {"absorption_rate", "excess"} <= set(found["health"]["invalid"])
    assert "mcc" not in found["health"]["invalid"]
    shown = capsys.readouterr().out
    assert "health: INVALID" in shown
    line = next(line for line in shown.splitlines() if "absorption_rate " in line)
    assert "*" in line


def test_json_in_place_of_the_table(run, capsys):
    assert main(["evaluate", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sae"]["d_sae"] == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SAE"], "without data"),
        (["SAE", "--text", "TEXT", "--model", "/nowhere/model"], "no model folder"),
        (["SAE", "--text", "TEXT", "--hook", "blocks.1.hook_resid_post"], "names blocks.0.hook"),
        (["SAE", "--data", "OTHER"], "the hook blocks.1.hook_resid_post was given"),
        (["SAE", "--activations", "synthetic"], "width 32"),
        (["/nowhere/sae", "--activations", "synthetic"], "no such folder"),
        (["SAE", "--text", "TEXT", "--out", "/nowhere/figures.json"], "--out"),
        (["SAE", "--text", "TEXT", "--eval-samples", "0"], "--eval-samples 0"),
        (["SAE", "--text", "TEXT", "--data", "DIR"], "--data was given"),
        (["SAE", "--text", "TEXT", "--evals", "core"], "or give --suite saebench"),
        (["SAE", "--suite", "saebench", "--plant"], "--plant was given"),
        (["SAE", "--suite", "saebench", "--evals", "corr"], "core"),
        (["SAE", "--suite", "saebench", "--saebench-python", "/nowhere"], "make saebench"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(
    sae, text, other_shards, arguments, message, capsys
):
    paths = {"SAE": str(sae), "TEXT": str(text), "OTHER": str(other_shards)}
    given = [paths.get(word, word) for word in arguments]
    assert main(["evaluate", *given]) == 2
    assert message in capsys.readouterr().err


def asked(path: Path, *options: str) -> Asked:
    given = read(command.Options, [str(path), *options], prog="evaluate")
    split = build(command.Options, given).split
    settings = data_settings(given.values, command.Options)
    return understand(path, settings, split=split, named={"model": "m", "hook": "h"})


def test_which_data_the_options_mean(run, sae, text):
    assert asked(run).config.activations == "synthetic"
    assert asked(run).config.synthetic.d_in == 24
    assert asked(sae, "--text", str(text)).config.model == "m"
    assert asked(sae, "--text", str(text), "--hook", "other").config.hook == "other"
    assert asked(run, "--text", str(text), "--model", "m").split == "all"
    assert asked(sae, "--text", str(text), "--split", "eval").split == "eval"
    assert asked(run, "--plant").config.plant.enabled
    with pytest.raises(ConfigError, match="exactly one source of text"):
        asked(sae, "--text", str(text), "--dataset", "d")
