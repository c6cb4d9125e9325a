"""What a run leaves behind: files, their keys, and an SAE that computes what was trained."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import topk_ortho
import topk_ortho.train as command
from tests import tiny_llama
from tests.conftest import Run
from tests.system.tiny_run import OPTIONS, SHAPE, events, over, tiny
from topk_ortho import cli, training
from topk_ortho.activations import prepare
from topk_ortho.commands.reader import parse
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.rules import check
from topk_ortho.config.toml import config_hash, read_config
from topk_ortho.constraint.history import PairHistory
from topk_ortho.training import Interrupted, resume, train
from topk_ortho.training.folder import new_run_path
from topk_ortho.training.loop import Loop

SHORT = ["--steps", "20", "--checkpoint-every", "8"]
EVENT = {
    "step", "loss", "l2", "l1", "l0", "orthogonality", "penalty", "penalty_share", "aux",
    "explained_variance", "dead", "zero_rows", "lr", "sparsity_penalty", "tokens_per_second",
    "memory_allocated", "memory_reserved", "variance_share_top_rows", "score_share_top_rows",
    "pairs", "pairs_requested", "jaccard",
}  # fmt: skip
OF_SELECTIONS = {
    "pairs_positive", "pairs_unsupported", "saturation", "path", "selection_budget",
    "selection_blocks", "selection_largest_block", "entered", "left", "kept",
    "mean_ema", "stable_share", "pairs_overlapping", "pairs_features", "living_features",
}  # fmt: skip
RESULT = {
    "steps", "seconds", "step_ms", "seed", "criterion", "coefficient", "variance", "scale",
    "mse", "explained_variance", "l0", "dead_features", "c_dec",
}  # fmt: skip
OF_TRUTH = {"absorption_rate", "excess", "mcc", "f1_parent", "f1_child", "parents_found"}
OF_SELECTION = {
    "selection_budget", "selection_blocks", "selection_largest_block", "jaccard", "stable_share",
    "pairs_overlapping", "pairs_features", "living_features",
}  # fmt: skip
OF_LANGUAGE = {"ce_score", "kl_score"}
PLOTS = {"memory_usage.png", "training_metrics.png", "final_stats.png"}


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """A run with its baseline, through the command line."""
    folder = tmp_path_factory.mktemp("both") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("topk_ortho.training.evaluation.CALIBRATION_ROWS", 2048)
        assert command.main(over(OPTIONS, *SHORT, "--with-baseline", "--out", str(folder))) == 0
    return folder


def result_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_both_arms_have_all_files(both):
    arm = {"config.toml", "manifest.json", "metrics.jsonl", "result.json", "ground_truth.json"}
    arm |= {"checkpoints", "sae", "features.json"}
    assert {p.name for p in both.iterdir()} == arm | {
        "history.bin",
        "stability.json",
        "plots",
        "baseline",
        "comparison.json",
    }
    assert {p.name for p in (both / "baseline").iterdir()} >= arm
    assert not (both / "baseline" / "history.bin").exists()
    assert {p.name for p in (both / "sae").iterdir()} == {"cfg.json", "sae_weights.safetensors"}


def test_the_configuration_is_the_one_that_was_given(both):
    config = tiny(*SHORT, "--with-baseline")
    assert read_config(both / "config.toml") == config
    plain = read_config(both / "baseline" / "config.toml")
    assert plain == config.without_constraint()
    assert plain.pairs.criterion == "none"


def test_the_manifest_says_what_ran_where(both):
    manifest = json.loads((both / "manifest.json").read_text())
    assert manifest["seed"] == 0
    assert manifest["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"python", "numpy", "topk-ortho"} <= set(manifest["versions"])
    assert {"platform", "processor", "cores", "threads", "device"} == set(manifest["hardware"])
    commit = manifest["git_commit"]
    assert commit is None or len(commit) == 40
    assert manifest["config_hash"] == config_hash(tiny(*SHORT))


def test_logged_steps_have_their_keys(both):
    lines = events(both)
    assert [line["step"] for line in lines] == [7, 14, 20]
    assert all(set(line) == EVENT | OF_SELECTIONS for line in lines)
    assert all(line["pairs"] == line["pairs_requested"] for line in lines[1:])
    plain = events(both / "baseline")
    assert all(set(line) == EVENT and line["pairs"] == 0 for line in plain)
    assert all(line["orthogonality"] == 0 for line in plain)


def test_the_result_has_its_keys(both):
    result, plain = result_of(both), result_of(both / "baseline")
    assert set(result) >= RESULT | OF_TRUTH
    assert set(result) - set(plain) == OF_SELECTION
    assert set(plain) <= set(result)
    assert (result["criterion"], plain["criterion"]) == ("row-coactivation", "none")
    assert (result["coefficient"], plain["coefficient"]) == (2.0, 0.0)
    assert (result["steps"], result["rows"]) == (20, 512)


def test_rates_stand_beside_what_they_were_counted_from(both):
    for folder in (both, both / "baseline"):
        result, truth = result_of(folder), json.loads((folder / "ground_truth.json").read_text())
        counts = result["counts"]
        assert set(counts) > {"absorption_rate", "base_miss", "mcc", "f1_child", "dead_features"}
        for name, count in counts.items():
            assert (result[name] is None) == (0 in (count.get("used"), count.get("denominator")))
        used = [edge for edge in truth["edges"] if edge["eligible"]]
        assert counts["absorption_rate"]["used"] == len(used) == result["edges_eligible"]
        assert counts["absorption_rate"]["numerator"] == sum(edge["n_silent"] for edge in used)
        assert counts["absorption_rate"]["denominator"] == sum(edge["n_child"] for edge in used)
        rare = [edge for edge in truth["edges"] if not edge["eligible"]]
        assert all(edge["absorption_rate"] is None for edge in rare)
        assert counts["dead_features"] == {"numerator": 64 - result["alive"], "denominator": 64}
        assert (truth["rows"], truth["min_child_tokens"]) == (512, 20)
        assert [f["parent"] for f in truth["features"]][:6] == [None] * 4 + [0, 0]


def test_the_comparison_subtracts(both):
    comparison = json.loads((both / "comparison.json").read_text())
    result, plain = result_of(both), result_of(both / "baseline")
    assert comparison["constrained"] == result
    assert comparison["baseline"] == plain
    difference = comparison["difference"]
    for key in ("absorption_rate", "explained_variance", "step_ms"):
        assert difference[key] == result[key] - plain[key]
    assert not {"seed", "steps", "variance", "scale", "criterion"} & set(difference)


def test_the_newest_checkpoints_are_kept(both):
    # every 8 steps and at the end
    assert {p.name for p in (both / "checkpoints").iterdir()} == {"step_16", "step_20"}


def test_three_plots_are_drawn(both):
    assert {p.name for p in (both / "plots").iterdir()} == PLOTS
    for name in PLOTS:
        assert (both / "plots" / name).read_bytes().startswith(b"\x89PNG")


def test_the_history_is_readable(both):
    history = PairHistory.from_bytes((both / "history.bin").read_bytes())
    assert history.observations == 20
    assert history.decay == 0.99
    top = history.top(5)
    assert (top.i < top.j).all()
    assert (top.last_seen <= 19).all()


def test_the_table_is_printed(both, capsys):
    assert command.main(["--resume", str(both)]) == 0  # finished: only printed again
    out = capsys.readouterr().out
    assert "absorption_rate" in out
    assert "coactivation" in out
    assert f"run folder: {both}" in out


def test_no_arguments_train_both_arms_in_a_new_folder(tmp_path):
    options = parse([])
    assert options.settings == TrainConfig(with_baseline=True)
    assert options.out is None
    path = new_run_path(options.settings, tmp_path / "runs")
    assert path.parent == tmp_path / "runs"
    path.mkdir(parents=True)
    assert new_run_path(options.settings, tmp_path / "runs") != path


def test_no_out_means_a_folder_under_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main(over(OPTIONS, *SHORT)) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"run folder: {Path('runs') / folder.name}" in capsys.readouterr().out
    assert (folder / "result.json").exists()


KINDS = ("topk", "batch-topk", "relu", "matryoshka")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 12)) * 7 + rng.normal(size=12) * 3
    np.save(folder / "x.npy", x.astype(np.float32))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_sae_works_in_the_units_of_the_model(kind, shards, tmp_path, monkeypatch):
    trained = []
    finish = Loop.finish
    monkeypatch.setattr(Loop, "finish", lambda self: trained.append(self.state) or finish(self))
    config = tiny(*SHORT, "--activations", "files", "--data", str(shards), "--sae.kind", kind,
                  base=SHAPE)  # fmt: skip
    result = training.train(config, tmp_path / "run", progress=False)
    (state,) = trained
    scale = result["scale"]
    assert 0.05 < scale < 0.5  # the data's variance is far from 5
    loaded = topk_ortho.load_sae(tmp_path / "run")
    assert loaded.config.kind == kind
    x = torch.from_numpy(np.load(shards / "x.npy"))[:500]
    with torch.no_grad():
        inside = state.sae.encode(x * scale)
        codes = loaded.encode(x)
        # a pre-activation within rounding of the threshold may fall on either side of it
        assert ((inside > 0) == (codes > 0)).float().mean() > 0.9999
        rows = ((inside > 0) == (codes > 0)).all(1)
        assert rows.float().mean() > 0.99
        torch.testing.assert_close(codes[rows] * scale, inside[rows], rtol=1e-4, atol=1e-5)
        expected = state.sae.decode(inside) / scale
        torch.testing.assert_close(loaded.decode(codes)[rows], expected[rows], rtol=1e-4, atol=1e-3)


def test_the_data_is_scaled_to_total_variance_5(shards, tmp_path):
    data = prepare(tiny("--activations", "files", "--data", str(shards), base=SHAPE))
    assert data.variance == pytest.approx(5)
    x = np.load(shards / "x.npy")[:1600]
    assert data.scale == pytest.approx((5 / x.astype(np.float64).var(0).sum()) ** 0.5)


@pytest.fixture
def language(tmp_path: Path) -> list[str]:
    text = tmp_path / "t.txt"
    text.write_text("\n\n".join(tiny_llama.stories(60)))
    return ["--model", str(tiny_llama.shared()), "--text", str(text), "--context", "32",
            "--hook", "blocks.0.hook_resid_post"]  # fmt: skip


def test_a_language_model_end_to_end(language, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = over(SHAPE, *SHORT, "--activations", "language-model", *language)
    assert command.main([*arguments, "--out", str(out)]) == 0
    result = result_of(out)
    assert set(result) >= RESULT | OF_LANGUAGE
    assert result["scale"] != 1
    assert "ce_score" in capsys.readouterr().out
    assert "absorption_rate" not in result
    described = json.loads((out / "sae" / "cfg.json").read_text())["metadata"]
    assert described["hook_name"] == "blocks.0.hook_resid_post"


def test_a_language_model_with_planted_hierarchies(language, tmp_path):
    out = tmp_path / "run"
    arguments = over(SHAPE, *SHORT, "--activations", "language-model", *language, "--plant")
    assert command.main([*arguments, "--out", str(out)]) == 0
    result = result_of(out)
    assert set(result) >= RESULT | OF_TRUTH
    assert result["variance"] > 6  # 5 of the model, the rest planted


def test_cached_activations_are_trained_on(language, tmp_path, capsys):
    cached = tmp_path / "cached"
    assert cli.main(["cache", "--out", str(cached), *language]) == 0
    assert f"of width {tiny_llama.D_MODEL} in {cached}" in capsys.readouterr().out
    out = tmp_path / "run"
    arguments = over(SHAPE, *SHORT, "--activations", "files", "--data", str(cached))
    assert cli.main(["train", *arguments, "--out", str(out)]) == 0
    assert result_of(out)["steps"] == 20


@pytest.mark.fault("a cache folder in use")
def test_cache_refuses_a_folder_in_use(language, tmp_path, capsys):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "mine").touch()
    assert cli.main(["cache", "--out", str(tmp_path / "t"), *language]) == 2
    assert "is in use" in capsys.readouterr().err.splitlines()[-1]


def test_the_process_prints_the_table_to_stdout_and_progress_to_stderr(run: Run, tmp_path):
    done = run(over(OPTIONS, *SHORT, "--out", "r"))
    assert done.returncode == 0, done.stderr
    assert "run folder: r" in done.stdout
    assert "step" not in done.stdout.splitlines()[0]
    assert "coactivation: step 20/20" in done.stderr
    assert "Traceback" not in done.stderr
    assert {p.name for p in (tmp_path / "r" / "plots").iterdir()} == PLOTS


def test_a_run_leaves_no_thread_and_the_callers_thread_count(tmp_path):
    before, alive = torch.get_num_threads(), set(threading.enumerate())
    train(tiny(), tmp_path / "run", progress=False)
    assert torch.get_num_threads() == before
    assert set(threading.enumerate()) <= alive


def test_orthogonality_is_logged_also_on_steps_that_leave_the_penalty_out(tmp_path):
    train(tiny("--penalty.every-n", "2", "--log-every", "10"), tmp_path / "run", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert all(line["orthogonality"] > 0 for line in lines)
    assert all(line["penalty"] == 0 for line in lines)  # steps 9, 19, ... are odd


@pytest.mark.fault("a configuration edited during its run")
def test_resuming_an_edited_configuration_is_refused(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(tiny(), folder, stop_after=20, progress=False)
    path = folder / "config.toml"
    path.write_text(re.sub(r"(?m)^lr = .*$", "lr = 0.05", path.read_text()))
    with pytest.raises(ConfigError, match="was changed since the run began"):
        resume(folder, progress=False)


def test_the_python_interface_knows_every_spelling_and_refuses_a_wrong_one():
    config = tiny()
    same = replace(config, sae=replace(config.sae, kind="batch_topk"))
    assert check(same).sae.kind == "batch-topk"
    with pytest.raises(ConfigError, match=r"PenaltyConfig\(units='variances'\) was given"):
        replace(config.penalty, units="variances")
