"""SAELens: a loss term more, and nothing else changes."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.integrations.standalone import (
    AT_ONCE,
    BATCH,
    D_IN,
    D_SAE,
    batch,
    expected,
    host,
    same_pairs,
)
from topk_ortho import ConfigError
from topk_ortho.activations.scaling import total_variance
from topk_ortho.integrations.saelens import LOSS_NAME, attach

sae_lens = host("sae_lens")

K = {"k": 6}
COEFFICIENTS = {"l1": 0.1, "l0": 0.1}
SAES = {
    "topk": ("TopK", K),
    "topk-not-rescaled": ("TopK", K | {"rescale_acts_by_decoder_norm": False}),
    "topk-sparse": (
        "TopK",
        K | {"rescale_acts_by_decoder_norm": False, "use_sparse_activations": True},
    ),
    "batch-topk": ("BatchTopK", K),
    "matryoshka": ("MatryoshkaBatchTopK", K | {"matryoshka_widths": [12, 24, D_SAE]}),
    "standard": ("Standard", {}),
    "jumprelu": ("JumpReLU", {}),
    "gated": ("Gated", {}),
}


def training_sae(name: str, *, seed: int = 0) -> Any:
    """One of `SAES` with rows of different norms, as training leaves them."""
    kind, options = SAES[name]
    config = getattr(sae_lens, f"{kind}TrainingSAEConfig")(d_in=D_IN, d_sae=D_SAE, **options)
    torch.manual_seed(seed)
    sae = getattr(sae_lens, f"{kind}TrainingSAE")(config)
    sae.W_dec.data.add_(0.05).mul_(torch.empty(D_SAE, 1).uniform_(0.5, 3))
    return sae


def forward(sae: Any, x: Tensor, step: int = 0) -> Any:
    from sae_lens.saes.sae import TrainStepInput

    given = TrainStepInput(
        sae_in=x,
        coefficients=COEFFICIENTS,
        dead_neuron_mask=torch.arange(D_SAE) < 4,
        n_training_steps=step,
        is_logging_step=False,
    )
    return sae.training_forward_pass(given)


def unit_codes(sae: Any, acts: Tensor) -> Tensor:
    """Codes `[batch, d_sae]` of unit rows."""
    acts = acts.detach().to_dense().float()
    rescaled = getattr(sae.cfg, "rescale_acts_by_decoder_norm", False)
    return acts if rescaled else acts * sae.W_dec.detach().norm(dim=1)


@pytest.mark.parametrize("name", SAES)
def test_one_loss_more_and_the_others_bit_for_bit(name: str) -> None:
    plain, constrained, x = training_sae(name), training_sae(name), batch()
    attach(constrained, AT_ONCE)
    before, after = forward(plain, x), forward(constrained, x)
    assert set(after.losses) == {*before.losses, LOSS_NAME}
    for key, value in before.losses.items():
        assert torch.equal(after.losses[key], value), key
    assert torch.equal(after.sae_out, before.sae_out)
    assert torch.equal(after.loss, before.loss + after.losses[LOSS_NAME])
    assert set(after.metrics) == set(before.metrics)


@pytest.mark.parametrize("name", SAES)
def test_the_decoder_receives_the_standalone_gradient_for_the_standalone_pairs(name: str) -> None:
    plain, constrained, x = training_sae(name), training_sae(name), batch()
    penalty = attach(constrained, AT_ONCE)
    forward(plain, x).loss.backward()
    out = forward(constrained, x)
    out.loss.backward()
    weight = 3.0 if name == "matryoshka" else 1.0
    acts = unit_codes(constrained, out.feature_acts)
    pairs, value, gradient = expected(
        acts, constrained.W_dec, variance=total_variance(x), weight=weight
    )
    same_pairs(penalty.selection, pairs)
    torch.testing.assert_close(out.losses[LOSS_NAME].detach(), value, rtol=1e-5, atol=0)
    for key, parameter in constrained.named_parameters():
        alone = plain.get_parameter(key).grad
        if key == "W_dec":
            torch.testing.assert_close(parameter.grad, alone + gradient, rtol=1e-4, atol=1e-5)
            assert not torch.equal(parameter.grad, alone)
        else:
            assert (parameter.grad is None) == (alone is None)
            assert alone is None or torch.equal(parameter.grad, alone), key


@pytest.mark.parametrize("name", ["topk", "batch-topk", "standard"])
def test_bf16_autocast(name: str) -> None:
    plain, constrained, x = training_sae(name), training_sae(name), batch()
    penalty = attach(constrained, AT_ONCE)
    with torch.autocast("cpu", torch.bfloat16):
        before, after = forward(plain, x), forward(constrained, x)
    after.loss.backward()
    assert after.feature_acts.dtype == before.feature_acts.dtype
    assert torch.equal(after.losses["mse_loss"], before.losses["mse_loss"])
    acts = unit_codes(constrained, after.feature_acts)
    pairs, value, _ = expected(acts, constrained.W_dec, variance=total_variance(x))
    same_pairs(penalty.selection, pairs)
    torch.testing.assert_close(after.losses[LOSS_NAME].detach(), value, rtol=1e-5, atol=0)
    assert constrained.W_dec.grad.isfinite().all()


COMPILED = "test_an_sae_that_its_runner_compiles_keeps_the_constraint"


def test_an_sae_that_its_runner_compiles_keeps_the_constraint() -> None:
    """`compile_sae=True` compiles `training_forward_pass`, as is done here."""
    if "nnsight" in sys.modules:  # dictionary_learning's; it changes tensors so that none compiles
        command = [sys.executable, "-m", "pytest", "-q", f"{__file__}::{COMPILED}"]
        assert subprocess.run(command, check=False).returncode == 0
        return
    torch.compiler.reset()
    plain, compiled, x = training_sae("topk"), training_sae("topk"), batch()
    attach(plain, AT_ONCE)
    penalty = attach(compiled, AT_ONCE)
    compiled.training_forward_pass = torch.compile(
        compiled.training_forward_pass, backend="aot_eager"
    )
    for step in range(2):
        before, after = (forward(sae, x, step) for sae in (plain, compiled))
        before.loss.backward()
        after.loss.backward()
        assert after.losses[LOSS_NAME] > 0
        torch.testing.assert_close(after.losses[LOSS_NAME], before.losses[LOSS_NAME])
    same_pairs(penalty.selection, plain.orthogonality.selection)
    torch.testing.assert_close(compiled.W_dec.grad, plain.W_dec.grad)


def test_the_scope_is_passed_on() -> None:
    assert attach(training_sae("topk"), AT_ONCE)._processes.scope == "global"
    assert attach(training_sae("topk"), AT_ONCE, scope="local")._processes.scope == "local"


def test_micro_batches_in_a_loop_of_ones_own() -> None:
    whole, parts, x = training_sae("topk"), training_sae("topk"), batch()
    once, piecewise = attach(whole, AT_ONCE), attach(parts, replace(AT_ONCE, micro_batches=4))
    forward(whole, x).loss.backward()
    for piece in x.split(BATCH // 4):
        (forward(parts, piece).loss / 4).backward()
    same_pairs(piecewise.selection, once.selection)
    alone = training_sae("topk")
    for piece in x.split(BATCH // 4):
        (forward(alone, piece).loss / 4).backward()
    acts = unit_codes(whole, whole.encode(x))
    _, _, gradient = expected(acts, whole.W_dec, variance=total_variance(x))
    torch.testing.assert_close(parts.W_dec.grad - alone.W_dec.grad, gradient, rtol=1e-3, atol=1e-4)


def test_its_trainer_logs_the_term_and_saves_what_it_always_did(tmp_path) -> None:
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sae = training_sae("batch-topk")
    penalty = attach(sae, replace(AT_ONCE, steps=6))
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=6 * BATCH,
            train_batch_size_samples=BATCH,
            device="cpu",
            logger=LoggingConfig(log_to_wandb=False),
            lr_end=1e-3,
        ),
        sae,
        iter([batch(seed) for seed in range(8)]),
    )
    output = trainer.step(batch())
    logged = trainer.build_train_step_log_dict(output, BATCH)
    assert logged[f"losses/{LOSS_NAME}"] == pytest.approx(float(penalty.value))
    assert logged["losses/mse_loss"] == pytest.approx(float(output.losses["mse_loss"]))
    trainer.fit()
    assert len(penalty.history) > 0
    sae.save_inference_model(tmp_path)
    again = sae_lens.SAE.load_from_disk(tmp_path)
    norm = sae.W_dec.detach().norm(dim=1, keepdim=True)  # folded into the encoder
    torch.testing.assert_close(again.W_dec, sae.W_dec / norm)


def test_evaluation_does_not_touch_the_constraint() -> None:
    sae = training_sae("topk")
    penalty = attach(sae, AT_ONCE)
    forward(sae, batch())
    rate, pairs = penalty.firing.rate.clone(), penalty.selection
    with torch.no_grad():
        sae(batch(1))
        forward(sae, batch(1), 1)
    assert torch.equal(penalty.firing.rate, rate)
    assert penalty.selection is pairs


def test_what_is_no_training_sae_or_has_it_already_is_refused() -> None:
    sae = training_sae("topk")
    attach(sae, AT_ONCE)
    with pytest.raises(ConfigError, match="already"):
        attach(sae, AT_ONCE)
    with pytest.raises(ConfigError, match="a training SAE of SAELens"):
        attach(copy.copy(torch.nn.Linear(2, 2)), AT_ONCE)
