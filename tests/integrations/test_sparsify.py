"""sparsify: a gradient that travels with fvu, in its trainer, for SAEs and transcoders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import tiny_llama
from tests.integrations.standalone import AT_ONCE, batch, expected, host, same_pairs
from topk_ortho import ConfigError
from topk_ortho.integrations.sparsify import attach

sparsify = host("sparsify")

CONTEXTS, CONTEXT, WIDTH = 8, 16, tiny_llama.D_MODEL


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_llama.shared())


@pytest.fixture(autouse=True)
def _saves_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    precision = torch.get_float32_matmul_precision()
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_float32_matmul_precision(precision)  # `Trainer.fit` lowers it


def trainer(
    model: Any, *, constrained: bool, hook: str = "layers.1", sae: Any = None, **run
) -> Any:
    from datasets import Dataset

    tokens = torch.randint(3, 50, (CONTEXTS, CONTEXT), generator=torch.Generator().manual_seed(0))
    data = Dataset.from_dict({"input_ids": tokens.tolist()}).with_format("torch")
    config = sparsify.TrainConfig(
        sparsify.SparseCoderConfig(num_latents=48, k=6, **(sae or {})),
        batch_size=2, hookpoints=[hook], log_to_wandb=False, save_every=10**6, **run,
    )  # fmt: skip
    built = sparsify.Trainer(config, data, model)
    if constrained:
        attach(built, AT_ONCE)
    return built


def test_processes_with_saes_of_their_own_choose_pairs_of_their_own(model: Any) -> None:
    for own, scope in ((False, "global"), (True, "local")):
        built = trainer(model, constrained=False)
        built.cfg.distribute_modules = own
        (penalty,) = attach(built, AT_ONCE).values()
        assert penalty._processes.scope == scope


def coder(given: Any) -> Any:
    (sae,) = given.saes.values()
    sae.W_dec.data.add_(0.1)
    return sae


def dense(sae: Any, out: Any) -> Tensor:
    acts = torch.zeros(len(out.latent_acts), sae.num_latents)
    return acts.scatter_(1, out.latent_indices, out.latent_acts.detach().float())


def gradients(sae: Any) -> dict[str, Tensor | None]:
    return {name: p.grad for name, p in sae.named_parameters()}


def both(model: Any, **how) -> tuple[Any, Any, Any]:
    """An SAE without and one with the constraint, and its penalty."""
    plain, given = (trainer(model, constrained=False, **how) for _ in "ab")
    (penalty,) = attach(given, AT_ONCE).values()
    return coder(plain), coder(given), penalty


@pytest.mark.parametrize("kind", ["sae", "transcoder", "skip-transcoder", "free-norms"])
def test_fvu_is_bit_for_bit_the_same_and_the_decoder_gets_the_gradient(
    model: Any, kind: str
) -> None:
    options = {
        "sae": {},
        "transcoder": {"transcode": True},
        "skip-transcoder": {"transcode": True, "skip_connection": True},
        "free-norms": {"normalize_decoder": False},
    }[kind]
    plain, constrained, penalty = both(model, sae=options)
    x, y = batch(d=WIDTH), batch(1, d=WIDTH)
    given = {"y": y} if "transcoder" in kind else {}
    before, after = plain(x, **given), constrained(x, **given)
    for name in before._fields:
        assert torch.equal(getattr(after, name), getattr(before, name)), name
    before.fvu.backward()
    after.fvu.backward()
    acts = dense(constrained, after)
    if kind != "sae":
        acts = acts * constrained.W_dec.detach().norm(dim=1)
    pairs, value, gradient = expected(acts, constrained.W_dec, variance=1.0)
    same_pairs(penalty.selection, pairs)
    torch.testing.assert_close(penalty.value, value, rtol=1e-5, atol=0)
    alone = gradients(plain)
    for key, grad in gradients(constrained).items():
        if key == "W_dec":
            torch.testing.assert_close(grad, alone[key] + gradient, rtol=1e-4, atol=1e-6)
            assert not torch.equal(grad, alone[key])
        else:
            assert (grad is None) == (alone[key] is None)
            assert grad is None or torch.equal(grad, alone[key]), key


@pytest.mark.parametrize("options", [{"multi_topk": True}, {"activation": "groupmax"}])
def test_the_codes_are_those_that_are_decoded(model: Any, options: dict) -> None:
    plain, constrained, penalty = both(model, sae=options)
    x = batch(d=WIDTH)
    seen = plain.encode(x)
    constrained(x)
    acts = torch.zeros(len(x), 48).scatter_(1, seen.top_indices, seen.top_acts.detach())
    pairs, _, _ = expected(acts, constrained.W_dec, variance=1.0)
    same_pairs(penalty.selection, pairs)
    assert "encode" not in vars(constrained)


def test_bf16_autocast(model: Any) -> None:
    plain, constrained, penalty = both(model)
    x = batch(d=WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        before, after = plain(x), constrained(x)
        after.fvu.backward()
    assert torch.equal(after.fvu, before.fvu)
    pairs, value, _ = expected(dense(constrained, after), constrained.W_dec, variance=1.0)
    same_pairs(penalty.selection, pairs)
    torch.testing.assert_close(penalty.value, value, rtol=1e-5, atol=0)
    assert constrained.W_dec.grad.isfinite().all()


@pytest.mark.parametrize(("accumulated", "micro"), [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_its_fit_penalises_the_pairs_of_all_micro_batches(
    model: Any, accumulated: int, micro: int
) -> None:
    given = trainer(
        model, constrained=False, grad_acc_steps=accumulated, micro_acc_steps=micro,
        optimizer="adam",
    )  # fmt: skip
    (sae,) = given.saes.values()
    (penalty,) = attach(given, AT_ONCE).values()
    pieces: list[Tensor] = []
    forward, seen = sae.forward, []

    def watched(*arguments: Any, **named: Any) -> Any:
        out = forward(*arguments, **named)
        pieces.append(dense(sae, out))
        if len(pieces) == accumulated * micro:
            seen.append((torch.cat(pieces), penalty.selection))
            pieces.clear()
        return out

    sae.forward = watched
    given.fit()
    assert len(seen) == CONTEXTS // 2 // accumulated
    for acts, pairs in seen:
        assert len(acts) == 2 * CONTEXT * accumulated
        wanted, _, _ = expected(acts, sae.W_dec + 0.5, variance=1.0)
        same_pairs(pairs, wanted)


def test_micro_batches_weigh_the_penalty_as_they_weigh_fvu(model: Any) -> None:
    """`fit` divides by the number of chunks what adds up to fvu: the penalty is a fraction too."""
    x = batch(d=WIDTH)
    total = (x - x.mean(0)).pow(2).sum()
    wanted = None
    for micro in (1, 4):
        plain, constrained, _ = both(model, micro_acc_steps=micro)
        for sae in (plain, constrained):
            for piece in x.chunk(micro):
                (sae(piece, total_variance=total).fvu / micro).backward()
        added = micro * (constrained.W_dec.grad - plain.W_dec.grad)
        wanted = added if wanted is None else wanted
    torch.testing.assert_close(added, wanted, rtol=1e-3, atol=1e-5)
    assert added.any()


def test_the_trainer_tells_steps_and_micro_batches(model: Any) -> None:
    given = trainer(model, constrained=False, grad_acc_steps=2, micro_acc_steps=3)
    (penalty,) = attach(given, AT_ONCE).values()
    assert penalty.config.steps == CONTEXTS // 2 // 2
    assert penalty.config.micro_batches == 6


def test_without_gradients_nothing_changes(model: Any) -> None:
    _, constrained, penalty = both(model)
    constrained(batch(d=WIDTH))
    rate = penalty.firing.rate.clone()
    with torch.no_grad():
        constrained(batch(2, d=WIDTH))
    assert torch.equal(penalty.firing.rate, rate)


def test_what_cannot_be_used_is_refused(model: Any) -> None:
    given = trainer(model, constrained=True)
    with pytest.raises(ConfigError, match="already"):
        attach(given, AT_ONCE)
    with pytest.raises(ConfigError, match=r"a sparsify\.Trainer was expected"):
        attach(coder(given), AT_ONCE)
    with pytest.raises(ConfigError, match="loss_fn='ce'"):
        attach(trainer(model, constrained=False, loss_fn="ce"), AT_ONCE)
