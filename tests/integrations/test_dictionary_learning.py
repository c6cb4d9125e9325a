"""dictionary_learning: a subclass with the penalty in its loss, and its log as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.integrations.standalone import (
    AT_ONCE,
    D_IN,
    D_SAE,
    batch,
    expected,
    host,
    same_pairs,
)
from topk_ortho import ConfigError
from topk_ortho.activations.scaling import total_variance
from topk_ortho.integrations.dictionary_learning import with_orthogonality

host("dictionary_learning")

K, L1 = {"k": 6}, {"sparsity_warmup_steps": 10}
TRAINERS = {
    "top_k.TopKTrainer": K,
    "batch_top_k.BatchTopKTrainer": K,
    "matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer": K | {"group_fractions": [0.25, 0.75]},
    "standard.StandardTrainer": L1,
    "standard.StandardTrainerAprilUpdate": L1,
    "jumprelu.JumpReluTrainer": L1,
    "gdm.GatedSAETrainer": L1,
    "p_anneal.PAnnealTrainer": L1,
    "gated_anneal.GatedAnnealTrainer": L1,
}


def test_the_scope_is_passed_on() -> None:
    kind = with_orthogonality(trainer_class("top_k.TopKTrainer"), AT_ONCE, scope="local")
    trainer = kind(
        steps=9, activation_dim=D_IN, dict_size=D_SAE, layer=0, lm_name="none", device="cpu",
        warmup_steps=1, **TRAINERS["top_k.TopKTrainer"],
    )  # fmt: skip
    assert trainer.orthogonality._processes.scope == "local"


def trainer_class(name: str) -> Any:
    from importlib import import_module

    module, kind = name.split(".")
    return getattr(import_module(f"dictionary_learning.trainers.{module}"), kind)


def built(name: str, *, constrained: bool, config=AT_ONCE, steps: int = 50) -> Any:
    kind = trainer_class(name)
    kind = with_orthogonality(kind, config) if constrained else kind
    torch.manual_seed(0)
    trainer = kind(
        steps=steps, activation_dim=D_IN, dict_size=D_SAE, layer=0, lm_name="none",
        warmup_steps=5, device="cpu", **TRAINERS[name],
    )  # fmt: skip
    W_dec = rows(trainer) + 0.1 * torch.linspace(0.5, 1.5, D_SAE)[:, None]
    if "TopK" in name or "JumpRelu" in name:  # their rows are unit vectors after every step
        W_dec /= W_dec.norm(dim=1, keepdim=True)
    if hasattr(trainer.ae, "W_dec"):
        trainer.ae.W_dec.data.copy_(W_dec)
    else:
        trainer.ae.decoder.weight.data.copy_(W_dec.T)
    return trainer


def rows(trainer: Any) -> Tensor:
    """`[dict_size, activation_dim]`, a row for each feature."""
    ae = trainer.ae
    W_dec = ae.W_dec if hasattr(ae, "W_dec") else ae.decoder.weight.T
    return W_dec.detach().contiguous()


def gradients(trainer: Any) -> dict[str, Tensor | None]:
    return {name: p.grad for name, p in trainer.ae.named_parameters()}


def host_codes(trainer: Any, x: Tensor) -> Tensor:
    """Codes of unit rows, from the trainer's own log."""
    with torch.no_grad():
        logged = trainer.loss(x, step=0, logging=True)
    acts = logged[2].float().relu()
    norm = rows(trainer).norm(dim=1)
    return acts if ((norm - 1).abs() < 1e-3).all() else acts * norm


@pytest.mark.parametrize("name", TRAINERS)
def test_the_decoder_receives_the_standalone_gradient_for_the_standalone_pairs(name: str) -> None:
    plain, constrained = built(name, constrained=False), built(name, constrained=True)
    x = batch()
    acts = host_codes(plain, x)
    plain = built(name, constrained=False)
    before, after = plain.loss(x, step=0), constrained.loss(x, step=0)
    before.backward()
    after.backward()
    weight = 0.5 if "Matryoshka" in name else 1.0
    pairs, value, gradient = expected(
        acts, rows(constrained), variance=total_variance(x), weight=weight
    )
    same_pairs(constrained.orthogonality.selection, pairs)
    torch.testing.assert_close(constrained.orthogonality_loss, value, rtol=1e-5, atol=0)
    assert torch.equal(after.detach(), before.detach() + constrained.orthogonality_loss)
    alone = gradients(plain)
    for key, grad in gradients(constrained).items():
        if key in ("decoder.weight", "W_dec"):
            added = gradient if key == "W_dec" else gradient.T
            torch.testing.assert_close(grad, alone[key] + added, rtol=1e-4, atol=1e-5)
            assert not torch.equal(grad, alone[key])
        else:
            assert (grad is None) == (alone[key] is None)
            assert grad is None or torch.equal(grad, alone[key]), key


@pytest.mark.parametrize("name", TRAINERS)
def test_what_is_logged_is_bit_for_bit_the_hosts(name: str) -> None:
    plain, constrained = built(name, constrained=False), built(name, constrained=True)
    x = batch()
    for trainer in (plain, constrained):
        trainer.loss(x, step=0)
    rate = constrained.orthogonality.firing.rate.clone()
    with torch.no_grad():
        before = plain.loss(x, step=1, logging=True)
        after = constrained.loss(x, step=1, logging=True)
    assert before[3].keys() == after[3].keys()
    same = {k: v for k, v in before[3].items() if not isinstance(v, Tensor)}
    assert {k: after[3][k] for k in same} == same
    for a, b in zip(before[:3], after[:3], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(constrained.orthogonality.firing.rate, rate), "logging trains nothing"
    assert "orthogonality_loss" in constrained.get_logging_parameters()


@pytest.mark.parametrize("name", TRAINERS)
def test_its_update_trains(name: str) -> None:
    trainer = built(name, constrained=True)
    for step in range(3):
        trainer.update(step, batch(step))
    assert trainer.ae.encode is not None
    assert "encode" not in vars(trainer.ae)
    assert "decode" not in vars(trainer.ae)
    assert float(trainer.orthogonality_loss) > 0
    norm = rows(trainer).norm(dim=1)
    if "April" not in name:
        torch.testing.assert_close(norm, torch.ones(D_SAE), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["top_k.TopKTrainer", "standard.StandardTrainer"])
def test_bf16_autocast(name: str) -> None:
    trainer, x = built(name, constrained=True), batch()
    plain = built(name, constrained=False)
    with torch.autocast("cpu", torch.bfloat16):
        acts = host_codes(built(name, constrained=False), x)
        before, after = plain.loss(x, step=0), trainer.loss(x, step=0)
        after.backward()
    pairs, value, _ = expected(acts, rows(trainer), variance=total_variance(x))
    same_pairs(trainer.orthogonality.selection, pairs)
    assert float(after - before) == pytest.approx(float(value), rel=1e-3)
    assert all(g.isfinite().all() for g in gradients(trainer).values())


def test_micro_batches_in_a_loop_of_ones_own() -> None:
    name, x = "top_k.TopKTrainer", batch()
    whole = built(name, constrained=True)
    parts = built(name, constrained=True, config=replace(AT_ONCE, micro_batches=4))
    whole.loss(x, step=0).backward()
    for piece in x.split(len(x) // 4):
        (parts.loss(piece, step=0) / 4).backward()
    same_pairs(parts.orthogonality.selection, whole.orthogonality.selection)
    torch.testing.assert_close(
        parts.ae.decoder.weight.grad, whole.ae.decoder.weight.grad, rtol=1e-3, atol=1e-3
    )


def test_a_threshold_below_0_lets_through_what_is_not_counted() -> None:
    trainer = built("jumprelu.JumpReluTrainer", constrained=True)
    trainer.ae.threshold.data.fill_(-0.5)
    x = batch()
    trainer.loss(x, step=0)
    pairs, _, _ = expected(trainer.ae.encode(x).detach(), rows(trainer), variance=1.0)
    same_pairs(trainer.orthogonality.selection, pairs)


def test_it_keeps_its_name_steps_and_settings() -> None:
    trainer = built("top_k.TopKTrainer", constrained=True, steps=30)
    config = trainer.config
    assert config["trainer_class"] == "TopKTrainer"
    assert config["orthogonality"]["steps"] == 30
    assert config["orthogonality"]["decoder"] == "columns"
    given = built("top_k.TopKTrainer", constrained=True, config=replace(AT_ONCE, steps=7))
    assert given.config["orthogonality"]["steps"] == 7
    assert type(trainer).__name__ == "OrthogonalTopKTrainer"


def test_what_is_no_trainer_class_is_refused() -> None:
    for wrong in (dict, built("top_k.TopKTrainer", constrained=False), "TopKTrainer"):
        with pytest.raises(ConfigError, match="a trainer class of dictionary_learning"):
            with_orthogonality(wrong)
