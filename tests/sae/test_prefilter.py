"""Codes from a bfloat16 product that rules features out are those of the float32 product."""

from __future__ import annotations

import pytest
import torch

from tests.sparse.test_products import BATCH, D_IN, D_SAE, batch
from topk_ortho.config import SAEConfig
from topk_ortho.sae import ARCHITECTURES, SAE, build
from topk_ortho.sae.prefilter import Prefilter

KINDS = [a.name for a in ARCHITECTURES if a.prefiltered is not SAE.prefiltered]


def twins(kind: str, *, spread: float = 1.0, k: int = 4) -> tuple[SAE, SAE]:
    """Equal weights, without and with a prefilter; `spread` of 0: all rows nearly alike."""
    pair = []
    for prefilter in (False, True):
        config = SAEConfig(kind=kind, d_sae=D_SAE, k=k, bf16_prefilter=prefilter)
        sae = build(config, d_in=D_IN, seed=1)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            rows = torch.randn(D_SAE, D_IN, generator=generator)
            first = rows[0] + 1e-3 * rows
            sae.W_enc.copy_((spread * rows + (1 - spread) * first).T)
            sae.b_enc.copy_(0.1 * torch.randn(D_SAE, generator=generator) * spread)
            if kind == "relu":
                sae.b_enc.sub_(6 * spread)
        pair.append(sae)
    return pair[0], pair[1]


@pytest.mark.parametrize("kind", KINDS)
def test_prefiltered_codes_are_the_float32_ones(kind: str) -> None:
    plain, prefiltered = (sae.training_pass(batch(), sparse=True) for sae in twins(kind))
    assert prefiltered.pre.dtype == torch.bfloat16
    assert plain.codes.nnz > 20
    assert torch.equal(plain.codes.crow, prefiltered.codes.crow)
    assert torch.equal(plain.codes.col, prefiltered.codes.col)
    torch.testing.assert_close(plain.codes.value, prefiltered.codes.value, rtol=1e-5, atol=1e-5)
    for a, b in zip(plain.x_hat, prefiltered.x_hat, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "relu"])
def test_where_bfloat16_cannot_tell_features_apart_float32_does(kind: str) -> None:
    """Differences are below what bfloat16 resolves: the values kept are still the best."""
    plain, prefiltered = (
        sae.training_pass(batch(), sparse=True) for sae in twins(kind, spread=0.0)
    )
    assert torch.equal(plain.codes.crow, prefiltered.codes.crow)
    best = [codes.value.sort().values for codes in (plain.codes, prefiltered.codes)]
    torch.testing.assert_close(best[0], best[1], rtol=1e-6, atol=1e-6)
    approximate = twins(kind, spread=0.0)[0].pre_acts(batch()).bfloat16().float()
    exact = twins(kind, spread=0.0)[0].pre_acts(batch())
    gaps = exact.sort(1, descending=True).values.diff(dim=1).abs()
    assert gaps.median() < (approximate - exact).abs().median()  # the case is what it says


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_no_pre_activation_is_above_its_bound(scale: float) -> None:
    generator = torch.Generator().manual_seed(4)
    x, W = (scale * torch.randn(n, 96, generator=generator) for n in (BATCH, D_SAE))
    b = torch.randn(D_SAE, generator=generator)
    prefilter = Prefilter.of(x, W, b)
    exact = x.double() @ W.double().T + b
    upper = prefilter.upper(prefilter.approximate, prefilter.error[:, None])
    assert bool((exact <= upper).all())
    assert bool((exact <= 0)[prefilter.approximate <= prefilter.never_positive()].all())
    all_of_them = prefilter.exact(*torch.ones(BATCH, D_SAE).nonzero(as_tuple=True))
    torch.testing.assert_close(
        all_of_them.view(BATCH, D_SAE).double(), exact, rtol=1e-5, atol=1e-4 * scale**2 + 1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_not_a_number_is_kept(kind: str) -> None:
    sae = twins(kind)[1]
    x = batch()
    x[3, 2] = torch.nan
    assert not bool(torch.isfinite(sae.training_pass(x, sparse=True).code).all())


def test_gradients_are_those_of_float32() -> None:
    found = []
    for sae in twins("topk"):
        sae.zero_grad()
        sae.training_pass(batch(), sparse=True).x_hat[-1].square().sum().backward()
        found.append({name: p.grad for name, p in sae.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-4, msg=name)
