"""Losses of a spliced model, against a model whose logits are known and against stories260k."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import tiny_llama
from topk_ortho.metrics.behaviour import behaviour

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")
HOOK = "blocks.0.hook_resid_post"


class Table:
    """Activations are rows of a table by token, logits their product with a matrix."""

    def __init__(self, d_vocab: int = 7, d_in: int = 4) -> None:
        generator = torch.Generator().manual_seed(3)
        self.embed = torch.randn(d_vocab, d_in, generator=generator)
        self.unembed = torch.randn(d_in, d_vocab, generator=generator)

    def activations(self, tokens: Tensor, hook: str) -> Tensor:
        return self.embed[tokens]

    def run_with_hooks(self, tokens, hook=None, replace=None) -> Tensor:
        x = self.embed[tokens]
        return (replace(x) if replace else x) @ self.unembed


def by_hand(model: Table, contexts: Tensor, replace) -> dict[str, float]:
    """One position at a time, in float64."""
    ce, ce_original, kl = [], [], []
    for row in contexts.tolist():
        for here, following in zip(row, [*row[1:], None], strict=True):
            if here == 0:
                continue
            x = model.embed[here]
            log_p = (x.double() @ model.unembed.double()).log_softmax(-1)
            log_q = (replace(x[None])[0].double() @ model.unembed.double()).log_softmax(-1)
            kl.append(float((log_p.exp() * (log_p - log_q)).sum()))
            if following:
                ce.append(-float(log_q[following]))
                ce_original.append(-float(log_p[following]))

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    return {"ce": mean(ce), "kl": mean(kl), "ce_original": mean(ce_original)}


@pytest.fixture
def contexts() -> Tensor:
    rows = torch.randint(1, 7, (9, 6), generator=torch.Generator().manual_seed(1))
    rows[:, 0] = 0
    rows[4, 3] = 0
    return rows


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_against_one_position_at_a_time(contexts: Tensor, batch: int) -> None:
    model = Table()
    seen = contexts[contexts != 0]
    mean = model.embed[seen].double().mean(dim=0).float()
    replaced = {
        "reconstructed": lambda x: 0.6 * x + 0.1,
        "zero": torch.zeros_like,
        "mean": lambda x: mean.expand_as(x),
    }
    got = behaviour(model, contexts, HOOK, replaced["reconstructed"], batch=batch)
    for arm, replace in replaced.items():
        want = by_hand(model, contexts, replace)
        assert got[f"ce_{arm}"] == pytest.approx(want["ce"], abs=1e-5)
        assert got[f"kl_{arm}"] == pytest.approx(want["kl"], abs=1e-5)
        assert got["ce_original"] == pytest.approx(want["ce_original"], abs=1e-5)
    ce, ce_zero, ce_mean = (got[f"ce_{a}"] for a in ("reconstructed", "zero", "mean"))
    assert got["ce_score"] == pytest.approx((ce_zero - ce) / (ce_zero - got["ce_original"]))
    assert got["ce_score_mean"] == pytest.approx((ce_mean - ce) / (ce_mean - got["ce_original"]))
    kl, kl_zero, kl_mean = (got[f"kl_{a}"] for a in ("reconstructed", "zero", "mean"))
    assert got["kl_score"] == pytest.approx((kl_zero - kl) / kl_zero)
    assert got["kl_score_mean"] == pytest.approx((kl_mean - kl) / kl_mean)


def test_bos_rows_are_neither_given_nor_replaced(contexts: Tensor) -> None:
    model = Table()
    given, passed = [], []
    run = model.run_with_hooks

    def watched(tokens, hook=None, replace=None):
        if replace is not None:
            passed.append((tokens, replace(model.embed[tokens])))
        return run(tokens, hook, replace)

    model.run_with_hooks = watched
    behaviour(model, contexts, HOOK, lambda x: given.append(len(x)) or torch.full_like(x, 9.0))
    assert set(given) == {int((contexts != 0).sum())}
    tokens, x = passed[0]
    assert torch.equal(x[tokens == 0], model.embed[tokens[tokens == 0]])
    assert (x[tokens != 0] == 9).all()


def test_what_is_refused(contexts: Tensor) -> None:
    model = Table()
    with pytest.raises(ValueError, match=r"shape \[44, 3\]; expected \[44, 4\]"):
        behaviour(model, contexts, HOOK, lambda x: x[:, :3])
    with pytest.raises(ValueError, match="ce_reconstructed, kl_reconstructed not finite"):
        behaviour(model, contexts, HOOK, lambda x: x * math.nan)
    with pytest.raises(ValueError, match="same BOS token"):
        behaviour(model, contexts[:, 1:], HOOK, lambda x: x)


def test_contexts_without_a_prediction_have_no_cross_entropy(contexts: Tensor) -> None:
    """A run on very short contexts is finished all the same; what is unavailable is None."""
    alone = contexts[:, :2]
    got = behaviour(Table(), alone, HOOK, lambda x: x * 0.5)
    whole = behaviour(Table(), contexts, HOOK, lambda x: x * 0.5)
    assert {name for name, value in got.items() if value is None} == {
        name for name in whole if name.startswith("ce_")
    }
    assert got["kl_zero"] > 0


def test_an_ablation_without_effect_has_no_score(contexts: Tensor) -> None:
    model = Table()
    model.unembed.zero_()
    got = behaviour(model, contexts, HOOK, lambda x: x)
    assert got["ce_score"] is None and got["kl_score_mean"] is None
    assert got["ce_original"] == pytest.approx(math.log(7))


def check_ends(model, contexts: Tensor, hook: str, *, batch: int = 16) -> dict[str, float]:
    same = behaviour(model, contexts, hook, lambda x: x, batch=batch)
    assert same["ce_reconstructed"] == same["ce_original"] and same["kl_reconstructed"] == 0
    assert all(same[f"{m}_score{s}"] == 1 for m in ("ce", "kl") for s in ("", "_mean"))
    zero = behaviour(model, contexts, hook, torch.zeros_like, batch=batch)
    assert zero["ce_score"] == zero["kl_score"] == 0
    assert zero["ce_zero"] == same["ce_zero"] and zero["kl_zero"] > 0.001
    return same


@pytest.mark.parametrize("hook", [HOOK, "blocks.1.attn.hook_z"])
def test_identity_scores_one_and_zero_scores_zero(hook: str) -> None:
    from topk_ortho.activations.models import LanguageModel
    from topk_ortho.activations.text import pack_contexts

    model = LanguageModel.load(tiny_llama.shared())
    contexts = pack_contexts(model.tokenizer, tiny_llama.stories(), 16)[:20]
    check_ends(model, contexts, hook)


@needs_data
def test_stories260k_on_its_own_stories() -> None:
    from topk_ortho.activations.models import LanguageModel
    from topk_ortho.activations.text import pack_contexts, text_documents

    model = LanguageModel.load(DATA / "stories260k")
    documents = text_documents([DATA / "text" / "stories.txt"])
    contexts = pack_contexts(model.tokenizer, documents, 512, max_tokens=511 * 3)
    same = check_ends(model, contexts, "blocks.3.hook_resid_post", batch=1)
    assert same["ce_original"] == pytest.approx(1.4, abs=0.1)
    assert same["ce_zero"] > 5 and 3 < same["ce_mean"] < same["ce_zero"]
    noisy = behaviour(
        model,
        contexts,
        "blocks.3.hook_resid_post",
        lambda x: x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)),
        batch=1,
    )
    assert 0.5 < noisy["ce_score_mean"] < noisy["ce_score"] < 1


class Counting(Table):
    """Counts its passes."""

    passes = 0

    def activations(self, tokens: Tensor, hook: str) -> Tensor:
        self.passes += 1
        return super().activations(tokens, hook)

    def run_with_hooks(self, tokens, hook=None, replace=None) -> Tensor:
        self.passes += 1
        return super().run_with_hooks(tokens, hook, replace)


def test_several_saes_measure_the_ablations_once(contexts: Tensor) -> None:
    known: dict[str, float] = {}
    for factor, passes in ((0.6, 5), (0.9, 2), (0.3, 2)):
        model = Counting()
        alone = behaviour(Table(), contexts, HOOK, lambda x, by=factor: by * x)
        found = behaviour(model, contexts, HOOK, lambda x, by=factor: by * x, ablated=known)
        assert found == alone
        assert model.passes == passes
    assert set(known) == {"ce_zero", "ce_mean", "kl_zero", "kl_mean"}


def test_a_model_keeps_them_by_where_they_were_measured() -> None:
    from topk_ortho.activations.models import LanguageModel

    model = LanguageModel.load(tiny_llama.shared())
    model.ablated("here")["ce_zero"] = 1.0
    assert model.ablated("here") == {"ce_zero": 1.0}
    assert model.ablated("elsewhere") == {}
