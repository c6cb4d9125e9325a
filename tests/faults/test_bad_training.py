"""Training that goes wrong: stopped before it spoils anything, or carried through and reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import topk_ortho
from tests.system.tiny_run import events, tiny
from topk_ortho.activations import prepare
from topk_ortho.checkpoint import store
from topk_ortho.config import TrainConfig
from topk_ortho.sae import SAE
from topk_ortho.training import train
from topk_ortho.training.finite import NotFiniteError, check_storable
from topk_ortho.training.folder import RunFolder
from topk_ortho.training.state import TrainState

SHORT = ("--steps", "12", "--checkpoint-every", "4", "--log-every", "2", "--eval-samples", "64")


@pytest.fixture(autouse=True)
def _short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topk_ortho.training.evaluation.CALIBRATION_ROWS", 256)


@pytest.fixture(scope="module")
def data():
    return prepare(tiny(*SHORT))


def started_with(monkeypatch: pytest.MonkeyPatch, **weights: float | None) -> None:
    """Let runs start with parameters of one value; None puts row 5 of the decoder to zero."""
    fresh = TrainState.fresh

    def changed(config: TrainConfig, data, device, **rest) -> TrainState:
        state = fresh(config, data, device, **rest)
        with torch.no_grad():
            for name, value in weights.items():
                parameter = getattr(state.sae, name)
                if value is None:
                    parameter[5] = 0
                else:
                    parameter.fill_(value)
        return state

    monkeypatch.setattr(TrainState, "fresh", changed)


def finite_checkpoints(folder: Path) -> list[int]:
    """Steps of the checkpoints, all of which have to be whole and finite."""
    steps = []
    for path in sorted((folder / "checkpoints").glob("step_*")):
        checkpoint = store.load(path)
        steps.append(checkpoint.step)
        assert all(t.isfinite().all() for n, t in checkpoint.tensors.items() if n[:4] != "selec")
    return sorted(steps)


@pytest.mark.fault("a loss that explodes")
@pytest.mark.parametrize("kind", ["topk", "batch-topk", "relu", "matryoshka", "jumprelu"])
def test_a_learning_rate_that_is_far_too_high(kind, data, tmp_path) -> None:
    config = tiny(*SHORT, "--lr", "1e25", "--warmup-steps", "0", "--checkpoint-every", "1",
                  "--sae.kind", kind)  # fmt: skip
    with pytest.raises(NotFiniteError, match=r"step \d+: .* is not finite.*--lr") as stop:
        train(config, tmp_path / "run", data=data, progress=False)
    finite_checkpoints(tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()
    with safe_open(tmp_path / "run" / "bad_batch.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("x"), stop.value.batch)
        assert file.metadata()["error"] == str(stop.value)
        assert int(file.metadata()["step"]) <= 12


@pytest.mark.fault("a step after which a weight is not finite")
def test_no_checkpoint_holds_what_is_not_finite(data, tmp_path, monkeypatch) -> None:
    from topk_ortho.training import loop

    step = loop.train_step

    def spoil(state, x, *target):
        done = step(state, x, *target)
        if state.step == 8:
            with torch.no_grad():
                state.sae.W_enc[0, 0] = float("inf")
        return done

    monkeypatch.setattr(loop, "train_step", spoil)
    with pytest.raises(NotFiniteError, match=r"step 8: sae\.W_enc is not finite after the step"):
        train(tiny(*SHORT), tmp_path / "run", data=data, progress=False)
    assert finite_checkpoints(tmp_path / "run") == [4]
    assert (tmp_path / "run" / "bad_batch.safetensors").exists()


@pytest.mark.fault("a moment of the optimiser that is not finite")
@pytest.mark.parametrize("name", ["sae.b_dec", "adam.W_dec.exp_avg", "adam.W_enc.exp_avg_sq"])
def test_the_tensor_at_fault_is_named(name) -> None:
    tensors = {"sae.W_dec": torch.ones(3), "selection.score": torch.tensor([float("inf")])}
    check_storable(3, tensors, torch.zeros(1, 2))
    with pytest.raises(NotFiniteError, match=f"step 3: {name} is not finite"):
        check_storable(3, {**tensors, name: torch.tensor([0.0, np.nan])}, torch.zeros(1, 2))


@pytest.mark.fault("a disk that is full when a bad batch is written aside")
def test_what_stopped_the_run_is_not_lost_behind_a_full_disk(data, tmp_path, monkeypatch) -> None:
    def full(self: RunFolder, name: str, value: bytes) -> None:
        raise OSError(28, "No space left on device")

    config = tiny(*SHORT, "--lr", "1e25", "--warmup-steps", "0", "--checkpoint-every", "50")
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_json", lambda self, name, value: None)
        patch.setattr(RunFolder, "write_bytes", full)
        with pytest.raises(NotFiniteError, match=r"could not be written .No space left on device"):
            train(config, tmp_path / "run", data=data, progress=False)


@pytest.mark.fault("all features dead")
@pytest.mark.parametrize("kind", ["relu", "topk", "batch-topk", "matryoshka"])
def test_features_that_are_all_dead_are_reported(kind, data, tmp_path, monkeypatch) -> None:
    started_with(monkeypatch, b_enc=-1e6)
    config = tiny(*SHORT, "--sae.kind", kind, "--sae.aux-k", "0")
    with pytest.warns(UserWarning, match="all 64 features have been silent for more than 3") as got:
        result = train(config, tmp_path / "run", data=data, progress=False)
    assert len([w for w in got if "have been silent" in str(w.message)]) == 1
    logged = events(tmp_path / "run")
    assert [e["dead"] for e in logged[1:]] == [64] * 5
    assert all(e["l0"] == 0 and e["pairs"] == 0 for e in logged)
    assert result["dead_features"] == 1.0
    assert finite_checkpoints(tmp_path / "run") == [8, 12]
    codes = topk_ortho.load_sae(tmp_path / "run").encode(torch.randn(5, 24))
    assert not codes.any()


@pytest.mark.fault("a decoder row of norm zero")
@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu"])
def test_a_decoder_row_of_norm_zero_is_counted(kind, data, tmp_path, monkeypatch) -> None:
    started_with(monkeypatch, W_dec=None)
    remove = SAE.remove_parallel_gradient_

    def without_row_5(self: SAE) -> None:  # which the optimiser would move otherwise
        self.W_dec.grad[5] = 0
        remove(self)

    monkeypatch.setattr(SAE, "remove_parallel_gradient_", without_row_5)
    config = tiny(*SHORT, "--sae.kind", kind, "--penalty.ramp", "0")
    result = train(config, tmp_path / "run", data=data, progress=False)
    assert [e["zero_rows"] for e in events(tmp_path / "run")] == [1] * 6
    assert np.isfinite(result["mse"]) and np.isfinite(result["c_dec"])
    assert finite_checkpoints(tmp_path / "run") == [8, 12]
    assert not topk_ortho.load_sae(tmp_path / "run").W_dec[5].any()


@pytest.mark.fault("batches without a pair of active features")
def test_batches_without_an_active_pair_cost_nothing(data, tmp_path) -> None:
    config = tiny(*SHORT, "--sae.kind", "topk", "--sae.k", "1", "--pairs.per-feature", "1",
                  "--penalty.ramp", "0")  # fmt: skip
    result = train(config, tmp_path / "run", data=data, progress=False)
    logged = events(tmp_path / "run")
    assert all(e["l0"] == 1 and e["pairs"] == 0 and e["penalty"] == 0 for e in logged)
    assert all(e["orthogonality"] == 0 and np.isfinite(e["loss"]) for e in logged)
    assert result["steps"] == 12
    stability = json.loads((tmp_path / "run" / "stability.json").read_text())
    assert stability
