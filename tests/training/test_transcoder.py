"""Transcoders: any architecture learns a known map, and what is stored gives it back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.system.tiny_run import assert_same, tiny
from tests.training.states import Gaussian
from topk_ortho import load_sae
from topk_ortho.activations import Activations
from topk_ortho.activations.preparation import Units
from topk_ortho.activations.scaling import ScaledSource, sampled, total_variance
from topk_ortho.activations.source import Block, Split
from topk_ortho.config import ConfigError, SAEConfig, TrainConfig
from topk_ortho.config.registry import ARCHITECTURES
from topk_ortho.sae import build
from topk_ortho.training import Interrupted, resume, train
from topk_ortho.training.state import TrainState
from topk_ortho.training.step import train_step
from topk_ortho.training.warm_start import check_kind, start_from

D_IN, D_OUT, N_TRUE, ACTIVE = 16, 10, 24, 0.1
LEAST = {"relu": 0.75}
"""Explained variance, 0.9 for the others: L1 shrinks what ReLU reconstructs."""
SELDOM = ("--log-every", "600", "--checkpoint-every", "600")


@dataclass
class Linear(Gaussian):
    """Sparse combinations of fixed directions, far from 0; the target is a fixed matrix times x."""

    d_in: int = D_IN

    def block(self, index: int, split: Split) -> Block:
        generator = torch.Generator().manual_seed(2 * index + (split == "eval"))
        on = torch.rand(2048, N_TRUE, generator=generator) < ACTIVE
        x = on * torch.rand(2048, N_TRUE, generator=generator) @ _directions() + 3.0
        return Block(x, None, target_of(x))


def _directions() -> Tensor:
    rows = torch.randn(N_TRUE, D_IN, generator=torch.Generator().manual_seed(5))
    return rows / rows.norm(dim=1, keepdim=True)


def target_of(x: Tensor) -> Tensor:
    """A fixed matrix times x, and a constant, in a unit of its own."""
    matrix = torch.randn(D_IN, D_OUT, generator=torch.Generator().manual_seed(6))
    return 20 * x @ matrix - 7


@cache
def linear() -> Activations:
    """The data as a run has it: each side scaled by its own constant."""
    sample, x = sampled(Linear())
    y = sample.targets(Linear())
    assert y is not None
    scale, out = ((5 / total_variance(t)) ** 0.5 for t in (x, y))
    source = ScaledSource(Linear(), scale, target=out)
    target = Units(out, 5.0, y.mean(0) * out)
    return Activations(source, scale, 5.0, x.mean(0) * scale, target=target)


def settings(*options: str) -> TrainConfig:
    return tiny("--batch-size", "128", "--buffer-rows", "4096", *options)


@pytest.fixture(autouse=True)
def _quick_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topk_ortho.training.evaluation.CALIBRATION_ROWS", 2048)


def explained(y: Tensor, y_hat: Tensor) -> float:
    return float(1 - (y - y_hat).pow(2).sum() / (y - y.mean(0)).pow(2).sum())


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind in ("topk", "batch-topk") else pytest.mark.slow)
        for kind in ARCHITECTURES.names()
    ],
)
def test_every_architecture_learns_a_fixed_matrix(kind: str, tmp_path: Path) -> None:
    """What is measured in training's units is what the stored transcoder does in the data's."""
    config = settings("--steps", "600", "--sae.kind", kind, *SELDOM)
    result = train(config, tmp_path / "run", data=linear(), progress=False)
    assert result["explained_variance"] > LEAST.get(kind, 0.9)
    sae, block = load_sae(tmp_path / "run"), Linear().block(0, "eval")
    assert (sae.transcoder, sae.d_in, sae.d_out) == (True, D_IN, D_OUT)
    with torch.no_grad():
        found = explained(target_of(block.x), sae.decode(sae.encode(block.x)))
    assert found == pytest.approx(result["explained_variance"], abs=0.02)


def test_the_loss_and_the_penalty_are_of_the_target() -> None:
    state = TrainState.fresh(settings(), linear(), torch.device("cpu"))
    x, target = state.buffer.next_batch()
    assert target is not None
    assert state.constraint is not None and state.constraint.variance == 5.0
    with torch.no_grad():
        expected = (target - state.sae.training_pass(x).x_hat[-1]).pow(2).sum(1).mean()
    step = train_step(state, x, target)
    torch.testing.assert_close(step.l2, expected)
    assert step.target is target
    with pytest.raises(RuntimeError):
        train_step(state, x)  # of another width than the reconstruction


@pytest.mark.parametrize("kind", ["topk", "batch-topk", "matryoshka", "jumprelu", "relu"])
def test_the_sparse_and_the_dense_path_agree(kind: str) -> None:
    sae = build(SAEConfig(kind=kind, d_sae=40, k=3), d_in=D_IN, d_out=D_OUT, seed=1)
    x = Linear().block(0, "train").x[:64]
    sae.centre_(mean=x.mean(0), target=target_of(x).mean(0))
    sae.start(variance=5.0)
    gradients = []
    for sparse in (False, True):
        sae.zero_grad()
        (target_of(x) - sae.training_pass(x, sparse=sparse).x_hat[-1]).pow(2).sum(
            1
        ).mean().backward()
        gradients.append({name: p.grad.clone() for name, p in sae.named_parameters()})
    for name, dense in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], dense, rtol=1e-4, atol=1e-4)
    assert "b_in" not in gradients[0]


def test_a_target_that_is_not_finite_is_named() -> None:
    state = TrainState.fresh(settings(), linear(), torch.device("cpu"))
    x, target = state.buffer.next_batch()
    assert target is not None
    target[0, 0] = torch.nan
    with pytest.raises(ArithmeticError, match="target"):
        train_step(state, x, target)


@pytest.mark.parametrize("options", [(), ("--sae.kind", "relu"), ("--sae.d-sae", "400")])
def test_resuming_is_bit_for_bit(options: tuple[str, ...], tmp_path: Path) -> None:
    config = settings(*options)
    train(config, tmp_path / "whole", data=linear(), progress=False)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "halves", data=linear(), stop_after=31, progress=False)
    resume(tmp_path / "halves", data=linear(), progress=False)
    assert_same(tmp_path / "halves", tmp_path / "whole")


def test_other_targets_are_no_data_to_resume_with(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(settings(), tmp_path / "run", data=linear(), stop_after=20, progress=False)
    data = linear()
    assert data.target is not None
    other = replace(data, target=replace(data.target, scale=2.0))
    with pytest.raises(ConfigError, match="target_scale"):
        resume(tmp_path / "run", data=other, progress=False)


def test_a_transcoder_is_trained_further(tmp_path: Path) -> None:
    """It begins as good as the first run ended, whatever the units."""
    config = settings("--steps", "400", "--sae.kind", "relu", *SELDOM)
    result = train(config, tmp_path / "first", data=linear(), progress=False)
    again = replace(config, init_from=tmp_path / "first")
    state = TrainState.fresh(again, linear(), torch.device("cpu"))
    start_from(state)
    x, _, target = state.data.source.block(0, "eval")
    assert target is not None
    with torch.no_grad():
        found = explained(target, state.sae.training_pass(x).x_hat[-1])
    assert found == pytest.approx(result["explained_variance"], abs=0.03)
    assert state.sparsity_coefficient > 0


def test_a_transcoder_and_an_sae_do_not_start_from_each_other(tmp_path: Path) -> None:
    from tests.stored_saes import stored

    sae = stored("relu")
    both = {"hook": "blocks.0.hook_resid_mid", "hook_out": "blocks.0.hook_mlp_out"}
    config = TrainConfig(init_from=tmp_path, **both)
    with pytest.raises(ConfigError, match="no transcoder; leave --hook-out"):
        check_kind(config, sae)
    object.__setattr__(sae, "transcoder", True)
    check_kind(config, sae)
    with pytest.raises(ConfigError, match="add --hook-out"):
        check_kind(TrainConfig(init_from=tmp_path), sae)
