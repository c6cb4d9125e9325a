"""JumpReLU against its definition: codes, straight-through gradients, and the start."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.sparse.test_products import BATCH, D_IN, D_SAE, batch, trained
from topk_ortho.config import ConfigError, SAEConfig, TrainConfig
from topk_ortho.config.rules import check
from topk_ortho.sae import build
from topk_ortho.sae.jumprelu import Jump, JumpReLUSAE

BANDWIDTH = 0.6


def naive_slopes(pre: np.ndarray, theta: np.ndarray, grad: np.ndarray) -> tuple[np.ndarray, ...]:
    """`d/d log θ` of the code under `grad`, and of mean L0 (Rajamanoharan et al., eq. 11, 12)."""
    code, l0 = np.zeros_like(theta), np.zeros_like(theta)
    for b in range(len(pre)):
        for i in range(len(theta)):
            width = BANDWIDTH * theta[i]
            kernel = abs((pre[b, i] - theta[i]) / width) < 0.5
            code[i] += theta[i] * grad[b, i] * -(theta[i] / width) * kernel
            l0[i] += theta[i] * -(1 / width) * kernel / len(pre)
    return code, l0


def jump() -> JumpReLUSAE:
    sae = trained("jumprelu")
    assert isinstance(sae, JumpReLUSAE)
    return sae


def test_a_feature_fires_strictly_above_its_own_threshold() -> None:
    sae = build(SAEConfig(kind="jumprelu", d_sae=3, k=1), d_in=2, seed=0)
    with torch.no_grad():
        sae.log_threshold.copy_(torch.tensor([1.0, 2.0, 0.5]).log())
    theta = sae.thresholds().detach()
    pre = torch.stack([theta, theta * 1.01, theta * 0.99, -theta])
    expected = torch.zeros(4, 3)
    expected[1] = pre[1]
    assert torch.equal(sae.activate(pre), expected)
    assert torch.equal(sae.inference_code(pre), expected)


def test_the_gradients_are_the_definition() -> None:
    sae, x = jump(), batch()
    out = sae.training_pass(x)
    pre, theta = out.pre.detach().double().numpy(), sae.thresholds().detach().double().numpy()
    grad = torch.randn(BATCH, D_SAE, generator=torch.Generator().manual_seed(5))
    (code,) = torch.autograd.grad(out.code, sae.log_threshold, grad, retain_graph=True)
    (to_pre,) = torch.autograd.grad(out.code, out.pre, grad)
    (l0,) = torch.autograd.grad(sae.sparsity(out), sae.log_threshold)
    expected_code, expected_l0 = naive_slopes(pre, theta, grad.double().numpy())
    assert np.count_nonzero(expected_l0) > 20
    np.testing.assert_allclose(code.numpy(), expected_code, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(l0.numpy(), expected_l0, rtol=1e-5, atol=1e-7)
    assert torch.equal(to_pre, grad * (out.code > 0))


@pytest.mark.parametrize("bias", [0.0, -9.0])
def test_the_sparse_l0_is_the_dense_one(bias: float) -> None:
    sae = trained("jumprelu", bias=bias)
    found = []
    for sparse in (False, True):
        sae.zero_grad()
        out = sae.training_pass(batch(), sparse=sparse)
        value = sae.sparsity(out)
        value.backward()
        assert float(value.detach()) == pytest.approx(out.codes.nnz / BATCH)
        assert sae.b_enc.grad is None  # L0 moves the thresholds alone
        found.append((float(value.detach()), sae.log_threshold.grad.clone()))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1])
    assert bool(found[0][1].any()) == (bias == 0)


def test_a_higher_coefficient_of_l0_raises_thresholds() -> None:
    sae = jump()
    sae.sparsity(sae.training_pass(batch())).backward()
    assert (sae.log_threshold.grad <= 0).all()


@pytest.mark.parametrize("d_in", [D_IN, 200])
@pytest.mark.parametrize("scale", [0.1, 30.0])
def test_the_start_fits_data_of_any_scale(d_in: int, scale: float) -> None:
    sae = build(SAEConfig(kind="jumprelu", d_sae=1000, k=10), d_in=d_in, seed=0)
    x = scale * torch.randn(2000, d_in, generator=torch.Generator().manual_seed(1))
    sae.start(variance=float(x.var(0).sum()))
    assert 10 < sae.training_pass(x).codes.nnz / len(x) < 20  # 1.5 times the target


def test_a_target_above_half_of_the_features_still_starts_above_zero() -> None:
    sae = build(SAEConfig(kind="jumprelu", d_sae=10, k=9), d_in=4, seed=0)
    sae.start(variance=1.0)
    assert (sae.thresholds() > 0).all()


def test_a_nan_stays_to_be_seen() -> None:
    pre = torch.tensor([[float("nan"), 2.0, 0.1]])
    assert Jump.apply(pre, torch.zeros(3), BANDWIDTH).isnan().tolist() == [[True, False, False]]


@pytest.mark.parametrize(
    ("sae", "words"),
    [
        ({"bf16_prefilter": True}, "--sae.bf16-prefilter was given with --sae.kind jumprelu"),
        ({"bandwidth": 0.0}, r"bandwidth=0\.0"),
        ({"bandwidth": 2.5}, r"bandwidth=2\.5"),
    ],
)
def test_what_it_cannot_do_is_refused(sae: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(TrainConfig(sae=SAEConfig(kind="jumprelu", **sae)))
