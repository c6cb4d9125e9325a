"""A run that starts from a trained SAE: what it takes, in which units, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.stored_saes import D_IN, D_SAE, KINDS, codes, rows, stored
from tests.system.tiny_run import OPTIONS, assert_same, over, tiny
from topk_ortho import formats
from topk_ortho.activations import prepare
from topk_ortho.commands.reader import parse
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.rules import check
from topk_ortho.config.toml import config_hash, from_table, read_config
from topk_ortho.formats.load import as_module
from topk_ortho.inspect.reproduce import reproduce
from topk_ortho.training import Interrupted, losses, resume, train
from topk_ortho.training.state import TrainState
from topk_ortho.training.warm_start import fine_tuning, start_from

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Activations of width `D_IN` whose total variance is not 5, so that a run scales them."""
    folder = tmp_path_factory.mktemp("shards")
    np.save(folder / "a.npy", 4 + rows(4096).numpy())
    return folder


def started(sae: Path, shards: Path, **sae_options: object) -> TrainState:
    """The state of a run from `sae` before its first step."""
    table = {"batch_size": 32, "buffer_rows": 512, "activations": "files", "data": str(shards),
             "init_from": str(sae), "allow_pickle": True, "sae": sae_options}  # fmt: skip
    config = check(fine_tuning(from_table(table)))
    state = TrainState.fresh(config, prepare(config), CPU)
    start_from(state)
    return state


@pytest.mark.parametrize("layout", ["saelens", "dictionary-learning", "sparsify"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_state_computes_what_the_sae_does_in_the_units_of_the_data(
    kind: str, layout: str, tmp_path: Path, shards: Path
) -> None:
    if layout == "sparsify" and kind != "topk":
        return
    given = stored(kind, unit=kind not in ("relu", "jumprelu"))
    formats.write(given, tmp_path / "sae", layout=layout)  # type: ignore[arg-type]
    state = started(tmp_path / "sae", shards, k=3.0)
    assert state.config.sae.kind == kind
    assert (state.config.sae.d_sae, state.config.sae.k) == (D_SAE, 3)
    scale, x = state.data.scale, 4 + rows()
    assert abs(scale - 1) > 0.1
    norm = given.W_dec.norm(dim=1)
    expected = codes(given, x) * norm * scale  # unit rows take on the norm
    sae = state.sae
    if kind in ("batch-topk", "matryoshka"):
        assert given.threshold is not None
        got = sae.pre_acts(x * scale) * (codes(given, x) > 0)
    else:
        got = sae.encode(x * scale)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    x_hat = sae.decode(expected) / scale
    torch.testing.assert_close(x_hat, as_module(given).decode(codes(given, x)), rtol=1e-4,
                               atol=1e-4)  # fmt: skip


def test_firing_rates_are_measured_before_the_first_step(tmp_path: Path, shards: Path) -> None:
    formats.write(stored("topk"), tmp_path / "sae")
    state = started(tmp_path / "sae", shards)
    x = state.data.source.block(0, "train").x
    share = (state.sae.encode(x) > 0).float().mean(0)
    torch.testing.assert_close(state.firing.rate, share, rtol=0, atol=0.02)
    assert state.firing.started
    assert not bool(state.firing.silent.any())
    assert state.density == pytest.approx(3 / D_SAE, abs=0.05)


def test_the_weight_of_l1_starts_where_the_gradients_cancel() -> None:
    """With autograd's gradients: the biases' sum is 0 at that weight."""
    weak = replace(stored("relu"), W_enc=0.2 * stored("relu").W_enc)  # x_hat falls short of x
    sae, x = as_module(weak), rows()
    found = sae.balanced_coefficient(x.split(20))
    assert found is not None
    out = sae.training_pass(x)
    loss = losses.reconstruction(x, out.x_hat) + found * sae.sparsity(out)
    loss.backward()
    assert sae.b_enc.grad is not None
    assert float(sae.b_enc.grad.sum()) == pytest.approx(0, abs=1e-3)
    assert float(sae.b_enc.grad.abs().sum()) > 1


def test_a_trained_l1_sae_goes_on_at_about_its_weight(tmp_path: Path) -> None:
    options = ["--sae.kind", "relu", "--steps", "400", "--batch-size", "128", "--pairs.criterion",
               "none", "--buffer-rows", "4096"]  # fmt: skip
    config = tiny(*options)
    train(config, tmp_path / "run", progress=False)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    again = check(fine_tuning(replace(config, init_from=tmp_path / "run")))
    state = TrainState.fresh(again, prepare(again), CPU)
    first = state.sparsity_coefficient
    start_from(state)
    weight = last["sparsity_penalty"]
    assert abs(state.sparsity_coefficient / weight - 1) < 0.4 < abs(first / weight - 1)


def test_an_sae_without_a_balance_keeps_the_usual_weight() -> None:
    given = replace(stored("relu"), b_enc=torch.full((D_SAE,), -100.0))
    assert as_module(given).balanced_coefficient([rows()]) is None


def test_settings_are_taken_and_nothing_given_may_contradict(tmp_path: Path) -> None:
    formats.write(stored("matryoshka"), tmp_path / "sae")
    init = ["--init-from", str(tmp_path / "sae")]
    sae = parse(init).settings.sae
    assert (sae.kind, sae.d_sae, sae.k, sae.prefixes) == ("matryoshka", D_SAE, 3, (4, 12, D_SAE))
    assert parse([*init, "--sae.kind", "matryoshka", "--sae.k", "3"]).settings.sae == sae
    for option, value in (
        ("--sae.kind", "batch-topk"),  # the default of the option, and given all the same
        ("--sae.d-sae", "256"),
        ("--sae.k", "8"),
        ("--sae.prefixes", "10 20"),
    ):
        with pytest.raises(ConfigError, match=f"{option} .*leave the option out"):
            parse([*init, option, *value.split()])
    (tmp_path / "c.toml").write_text("[sae]\nd_sae = 256")
    with pytest.raises(ConfigError, match=r"--sae\.d-sae 256"):
        parse([*init, "--config", str(tmp_path / "c.toml")])
    with pytest.raises(ConfigError, match=r"^sae\.kind=relu was given"):
        train(from_table({"init_from": str(tmp_path / "sae"), "sae": {"kind": "relu"}}))


def test_an_unknown_k_has_to_be_given(tmp_path: Path) -> None:
    formats.write(replace(stored("batch-topk"), k=None), tmp_path / "sae")
    init = ["--init-from", str(tmp_path / "sae")]
    with pytest.raises(ConfigError, match=r"add --sae\.k"):
        parse(init)
    d_in = ["--synthetic.d-in", str(D_IN)]
    config = parse(over(OPTIONS_WITHOUT_SAE, *init, *d_in, "--sae.k", "8"))
    assert config.settings.sae.k == 8  # the default, and given all the same
    assert train(config.settings, tmp_path / "r", progress=False)["steps"] > 0


def test_thresholds_of_0_and_infinity_are_trained_and_stored(tmp_path: Path) -> None:
    given = stored("jumprelu")
    assert given.threshold is not None
    threshold = given.threshold.clone()
    threshold[0], threshold[1] = 0.0, torch.inf
    formats.write(replace(given, threshold=threshold), tmp_path / "sae")
    init = ["--init-from", str(tmp_path / "sae"), "--synthetic.d-in", str(D_IN)]
    config = parse(over(OPTIONS_WITHOUT_SAE, *init)).settings
    assert train(config, tmp_path / "r", progress=False)["steps"] > 0


def test_other_refusals(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        parse(["--init-from", str(tmp_path / "gone")])
    for option in (["--init-sha256", "ab"], ["--allow-pickle"]):
        with pytest.raises(ConfigError, match=f"{option[0]} was given, .* no --init-from"):
            parse(option)
    formats.write(stored("topk"), tmp_path / "sae")
    init = ["--init-from", str(tmp_path / "sae")]
    with pytest.raises(ConfigError, match="sha256 is"):
        parse([*init, "--init-sha256", "0" * 64])
    with pytest.raises(ConfigError, match=r"--hook blocks\.1\.hook_resid_post.*reads blocks\.3"):
        parse([*init, "--activations", "language-model", "--model", "m", "--text", "t", "--hook",
               "blocks.1.hook_resid_post"])  # fmt: skip
    with pytest.raises(ConfigError, match=f"width {D_IN}, and the data has width 24"):
        train(parse([*OPTIONS_WITHOUT_SAE, *init]).settings, tmp_path / "r", progress=False)
    formats.write(stored("topk", unit=False), tmp_path / "uneven")
    with pytest.raises(ConfigError, match="norms from"):
        started(tmp_path / "uneven", shards)
    formats.write(stored("topk"), tmp_path / "dl", layout="dictionary-learning")
    with pytest.raises(ConfigError, match="--allow-pickle"):
        parse(["--init-from", str(tmp_path / "dl")])


OPTIONS_WITHOUT_SAE = [
    word
    for at, word in enumerate(OPTIONS)
    if not {OPTIONS[at], OPTIONS[max(0, at - 1)]} & {"--sae.d-sae", "--sae.k"}
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run without the constraint."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    train(tiny("--pairs.criterion", "none", "--steps", "30"), folder, progress=False)
    return folder


def continued(plain: Path, *options: str) -> TrainConfig:
    return parse([*OPTIONS_WITHOUT_SAE, "--init-from", str(plain), *options]).settings


def test_the_configuration_is_named_by_the_content_of_the_sae(plain: Path, tmp_path: Path) -> None:
    config = continued(plain)
    shutil.copytree(plain, tmp_path / "elsewhere")
    assert config_hash(continued(tmp_path / "elsewhere")) == config_hash(config)
    formats.write(replace(formats.read(plain), b_dec=torch.zeros(24)), tmp_path / "other")
    assert config_hash(continued(tmp_path / "other")) != config_hash(config)
    assert config_hash(tiny()) != config_hash(config)


def test_a_run_starts_from_the_sae_and_resumes_bit_for_bit(plain: Path, tmp_path: Path) -> None:
    config = continued(plain, "--lr", "1e-12")
    train(config, tmp_path / "still", progress=False)
    one, other = formats.read(plain), formats.read(tmp_path / "still")
    torch.testing.assert_close(one.W_dec, other.W_dec, rtol=0, atol=1e-6)
    torch.testing.assert_close(one.threshold, other.threshold, rtol=0.1, atol=0)
    config = continued(plain)
    train(config, tmp_path / "whole", progress=False)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "parts", stop_after=27, progress=False)
    assert read_config(tmp_path / "parts" / "config.toml") == config
    resume(tmp_path / "parts", progress=False)
    assert_same(tmp_path / "parts", tmp_path / "whole")


def test_a_checkpoint_needs_the_sae_no_longer(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "sae")
    with pytest.raises(Interrupted):
        train(continued(tmp_path / "sae"), tmp_path / "run", stop_after=27, progress=False)
    shutil.rmtree(tmp_path / "sae")
    resume(tmp_path / "run", progress=False)


def test_reproducing_needs_the_same_sae(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "sae")
    train(continued(tmp_path / "sae"), tmp_path / "run", progress=False)
    assert reproduce(tmp_path / "run").equal
    changed = replace(formats.read(plain), b_dec=torch.zeros(24))
    shutil.rmtree(tmp_path / "sae")
    with pytest.raises(ConfigError, match="no such folder"):
        reproduce(tmp_path / "run")
    formats.write(changed, tmp_path / "sae")
    with pytest.raises(ConfigError, match="not the one"):
        reproduce(tmp_path / "run")


def test_the_arm_without_the_constraint_starts_from_it_too(plain: Path, tmp_path: Path) -> None:
    train(continued(plain, "--with-baseline", "--lr", "1e-12"), tmp_path / "run", progress=False)
    one, other = (formats.read(tmp_path / "run" / arm) for arm in ("", "baseline"))
    torch.testing.assert_close(one.W_dec, other.W_dec, rtol=0, atol=1e-6)
