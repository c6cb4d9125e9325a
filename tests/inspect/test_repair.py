"""A trained SAE repaired: measured before and after, written in the layout that it came in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.stored_saes import D_IN, D_SAE, K, codes, rows, stored
from tests.system.tiny_run import over
from topk_ortho import cli, formats
from topk_ortho.activations import prepare
from topk_ortho.commands.reader import parse, read
from topk_ortho.commands.repair import REFUSED, Options, repairing
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.toml import read_config
from topk_ortho.formats.saelens import export
from topk_ortho.inspect.repair.defaults import DEFAULTS, PENALTY, defaults
from topk_ortho.inspect.repair.measure import mean_l0
from topk_ortho.inspect.repair.repair import as_it_came, repair
from topk_ortho.training import Interrupted, train

SHORT = ["--steps", "12", "--batch-size", "32", "--buffer-rows", "512", "--eval-samples", "600"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with activations of width `D_IN`."""
    monkeypatch.chdir(tmp_path)
    Path("shards").mkdir()
    np.save("shards/a.npy", 2 + rows(2048).numpy())
    return tmp_path


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.main(["repair", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("layout", ["saelens", "dictionary-learning", "sparsify"])
def test_it_comes_back_in_its_layout(
    layout: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = stored("topk")
    formats.write(given, "sae", layout=layout)
    text = printed(["sae", "--data", "shards", "--out", "r", "--allow-pickle", *SHORT], capsys)
    assert formats.detect("r/repaired")[0] == layout
    got = formats.read("r/repaired", allow_pickle=True)
    assert (got.kind, got.k, got.hook or given.hook) == ("topk", K, given.hook)
    assert not np.allclose(got.W_dec, given.W_dec, atol=1e-3)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["before", "after"]
    assert {"suppressed_pairs", "explained_variance", "l0"} <= set(lines[0].split())
    assert "absorption" not in text  # nothing is known of these activations
    assert lines[-1] == f"repaired SAE ({layout}): r/repaired"


def test_known_features_give_absorption_before_and_after(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ["--synthetic.d-in", "16", "--synthetic.roots", "3", "--synthetic.children", "2",
            "--synthetic.independent", "6"]  # fmt: skip
    plain = parse(over(SHORT, *tiny, "--steps", "200", "--sae.d-sae", "24", "--sae.k", "3",
                   "--pairs.criterion", "none")).settings  # fmt: skip
    trained = train(plain, "plain", progress=False)
    out = json.loads(printed(["plain", *over(SHORT, *tiny, "--out", "r", "--json")], capsys))
    assert out == json.loads(Path("r/repair.json").read_text())
    for name in ("absorption_rate", "excess", "mcc", "explained_variance", "l0"):
        assert out["before"][name] == pytest.approx(trained[name], abs=1e-5)
        assert out["difference"][name] == pytest.approx(out["after"][name] - out["before"][name])
    result = json.loads(Path("r/result.json").read_text())
    assert out["after"]["explained_variance"] == pytest.approx(result["explained_variance"])
    assert (out["steps"], out["criterion"]) == (12, "row-coactivation")
    assert out["coefficient"] == PENALTY["penalty.coefficient"]
    text = printed(["plain", *over(SHORT, *tiny, "--out", "r")], capsys)  # nothing is trained again
    assert "absorption_rate" in text
    assert "explained variance" in text.splitlines()[-2]


@pytest.mark.parametrize("names", [("parent", "child"), ("source", "target")])
def test_the_edges_of_an_atlas_are_the_pairs(
    names: tuple[str, str],
    here: Path,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    formats.write(stored("topk"), "sae", layout="saelens")
    edges = [{names[0]: 5, names[1]: 2, "tier": "both"}, {names[0]: 5, names[1]: 7}]
    Path("atlas.json").write_text(json.dumps({"edges": edges}))
    command = ["sae", "--data", "shards", "--out", "r", "--atlas", "atlas.json", "--json", *SHORT]
    assert json.loads(printed(command, capsys))["criterion"] == "given"
    config = read_config(Path("r/config.toml"))
    assert (config.pairs.criterion, config.pairs.given) == ("given", (5, 2, 5, 7))
    assert config.coefficient() == PENALTY["penalty.coefficient"]
    assert json.loads(Path("r/result.json").read_text())["pairs_features"] == 3
    printed(command, capsys)  # the same command goes on with the same run
    assert not [w for w in recwarn if "hardly anything is being selected" in str(w.message)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "an atlas was expected"),
        ('{"edges": [{"child": 3}]}', "an atlas was expected"),
        ('{"edges": []}', "it has no edge"),
        ('{"edges": [{"parent": 3, "child": 99999}]}', "features are numbered from 0 to"),
        ('{"edges": [{"parent": 3, "child": 3}]}', "a pair is of two features"),
    ],
)
def test_what_is_no_atlas_of_this_sae_is_refused(
    content: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    formats.write(stored("topk"), "sae", layout="saelens")
    Path("atlas.json").write_text(content)
    command = ["repair", "sae", "--data", "shards", "--atlas", "atlas.json", *SHORT]
    assert cli.main(command) == 2
    assert said in capsys.readouterr().err
    assert cli.main([*command, "--pairs.criterion", "ortsae"]) == 2
    assert "leave one of them out" in capsys.readouterr().err


def test_an_unknown_l0_is_measured_and_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = replace(stored("batch-topk"), k=None)
    formats.write(given, "sae")
    data = prepare(parse(["--activations", "files", "--data", "shards"]).settings)
    x = 2 + rows(2048)
    l0 = mean_l0(given, data, samples=10**6)
    assert l0 == pytest.approx(float((codes(given, x) > 0).sum(1).float().mean()), rel=0.1)
    printed(["sae", "--data", "shards", "--out", "r", *SHORT], capsys)
    settings = parse(["--config", "r/config.toml"]).settings
    assert settings.sae.k == pytest.approx(l0, rel=0.1)
    assert formats.read("r/repaired").k == settings.sae.k


def test_an_interrupted_repair_goes_on(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    formats.write(stored("topk"), "sae")
    options = ["sae", "--data", "shards", *SHORT]
    whole = printed([*options, "--out", "whole"], capsys).splitlines()[2:4]
    config = asked([*options, "--out", "parts"])
    with pytest.raises(Interrupted):
        train(config, "parts", stop_after=5, progress=False)
    assert printed([*options, "--out", "parts"], capsys).splitlines()[2:4] == whole
    monkeypatch.setattr("topk_ortho.inspect.repair.repair.figures", None)  # nothing is measured
    with pytest.raises(ConfigError, match="exists already"):
        repair(replace(config, seed=3), "parts")


def test_what_was_given_stays_and_the_rest_is_by_default() -> None:
    sae = replace(stored("topk"), hook="blocks.3.x")
    assert defaults(sae, given=(), criterion=None) == {**DEFAULTS, **PENALTY}
    found = defaults(sae, given={"recipe"}, criterion=None)
    assert "penalty.coefficient" not in found  # which goes with the default criterion
    assert defaults(sae, given={"model"}, criterion=None)["hook"] == "blocks.3.x"


def test_a_setting_that_was_given_stays(here: Path) -> None:
    formats.write(stored("topk"), "sae")
    settings = settings_of(here, "--warmup-steps", "3")
    assert (settings.warmup_steps, settings.steps) == (3, DEFAULTS["steps"])
    assert settings.penalty.coefficient == PENALTY["penalty.coefficient"]
    assert settings.activations == "files"


def test_a_file_of_settings_counts_as_given(here: Path) -> None:
    formats.write(stored("topk"), "sae")
    Path("c.toml").write_text("steps = 7\n[pairs]\ncriterion = 'suppressed'")
    for config in (["--config", "c.toml"], ["--config=c.toml"]):
        settings = asked(["sae", *config, "--data", "shards"])
        assert (settings.steps, settings.pairs.criterion) == (7, "suppressed")
        assert settings.penalty.coefficient is None
        assert settings.warmup_steps == DEFAULTS["warmup-steps"]


def asked(arguments: list[str]) -> TrainConfig:
    return repairing(read(Options, arguments, prog="repair", refused=REFUSED)).settings


def settings_of(here: Path, *rest: str) -> TrainConfig:
    return asked(["sae", *rest, "--data", "shards"])


def test_the_default_criterion_may_be_named(here: Path) -> None:
    formats.write(stored("topk"), "sae")
    usual = settings_of(here)
    assert usual.penalty.coefficient == PENALTY["penalty.coefficient"]
    assert settings_of(here, "--pairs.criterion", "row-coactivation") == usual
    assert settings_of(here, "--pairs.criterion=row-coactivation") == usual
    other = settings_of(here, "--pairs.criterion", "suppressed")
    assert (other.penalty.coefficient, other.penalty.threshold) == (None, 0.05)


def test_a_file_opens_no_pickle_by_saying_no_and_trains_no_baseline(here: Path) -> None:
    formats.write(stored("topk"), "sae", layout="dictionary-learning")
    Path("c.toml").write_text("allow_pickle = false\nwith_baseline = true\n")
    with pytest.raises(ConfigError, match="--allow-pickle"):
        settings_of(here, "--config", "c.toml")
    Path("c.toml").write_text("allow_pickle = true\nwith_baseline = true\n")
    assert settings_of(here, "--config", "c.toml").with_baseline is False


def test_an_interrupted_repair_names_its_own_command(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    formats.write(stored("topk"), "sae")

    def stopped(config: TrainConfig, path: Path, **how: object) -> None:
        raise Interrupted("stopped after step 3; python -m topk_ortho.train --resume r", number=2)

    monkeypatch.setattr("topk_ortho.inspect.repair.repair.train", stopped)
    assert cli.main(["repair", "sae", "--data", "shards", "--out", "r", *SHORT]) == 130
    assert "the same command with --out r resumes" in capsys.readouterr().err


def test_precision_and_metadata_stay() -> None:
    given = replace(
        stored("topk"), W_enc=stored("topk").W_enc.bfloat16(), settings={"metadata": {"x": 1}}
    )
    got = as_it_came(replace(stored("topk", seed=1), hook="", model=""), given)
    assert (got.dtype, got.hook, got.settings) == ("bfloat16", given.hook, given.settings)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "without SAE"),
        (["gone"], "no such folder"),
        (["sae", "--init-from", "x"], "--init-from was given, but the SAE to repair"),
        (["sae", "--data", "shards", "--sae.k", "9"], "--sae.k 9.0 was given"),
        (["sae", "--stepz", "9"], "perhaps you meant --steps"),
        (["sae"], "sae was given without data, but it is not a run folder"),
        (["sae", "--activations", "synthetic"], f"width {D_IN}, and the data has width 96"),
        (["dl", "--data", "shards"], "--allow-pickle"),
    ],
)
def test_a_wrong_command_ends_in_one_sentence(
    arguments: list[str], words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    formats.write(stored("topk"), "sae")
    formats.write(stored("topk"), "dl", layout="dictionary-learning")
    assert cli.main(["repair", *arguments, *(SHORT if arguments else [])]) == 2
    # what takes more than two seconds, on a slow machine, shows how far it is before
    said = capsys.readouterr().err.splitlines()
    (error,) = [line for line in said if not line.startswith("reading the first rows")]
    assert words in error


def test_an_sae_of_another_layout_keeps_its_hook(here: Path) -> None:
    given = stored("relu")
    export(Path("sae"), kind="relu", W_enc=given.W_enc, b_enc=given.b_enc, W_dec=given.W_dec,
           b_dec=given.b_dec, threshold=None, k=2.0, hook="blocks.1.hook_mlp_out",
           model="m")  # fmt: skip
    assert asked(["sae", "--model", "m", "--text", "t"]).hook == "blocks.1.hook_mlp_out"
    assert formats.read("sae").d_sae == D_SAE
