"""Rows of any norm: the penalty is that of their directions, the gradient over the norm."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests.constraint.penalty import naive
from topk_ortho.constraint.criteria.cosine import Cosine
from topk_ortho.constraint.penalty import OrthogonalityPenalty
from topk_ortho.constraint.rows import codes_of_unit_rows
from topk_ortho.sparse.codes import Codes
from topk_ortho.sparse.scale import at_safe_scale, row_norms

SCALES = [10.0**exponent for exponent in range(-30, 31, 5)] + [1e-23, 1e20]
D_SAE, D_IN = 12, 33
GRADIENTS = ("child-only", "symmetric")
POLICIES = ("fixed", "mean-std")  # Rust prices the first in one pass, and the other in two


def rows() -> Tensor:
    """`[12, 33]` float64 with overlaps of either sign, one row of zeros."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(D_SAE, D_IN, generator=generator, dtype=torch.float64) + 0.5
    W[5] = 0
    return W


def penalty_of(W: Tensor, policy: str, gradient: str) -> tuple[Tensor, Tensor]:
    """The penalty of all pairs, and its gradient."""
    W = W.clone().requires_grad_()
    i, j = torch.triu_indices(D_SAE, D_SAE, 1)
    pairs = SimpleNamespace(i=i, j=j, score=torch.ones(len(i)))
    rate = torch.arange(D_SAE) / 100.0
    penalty = OrthogonalityPenalty(policy, threshold=0.05, sign="both", gradient=gradient)
    value = penalty(W, pairs, firing_rate=rate)
    value.backward()
    assert W.grad is not None
    return value.detach(), W.grad


@pytest.mark.fault("a number beyond the range of its type")
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("scale", SCALES)
def test_value_and_gradient_are_right_at_every_scale(
    scale: float, policy: str, gradient: str
) -> None:
    expected, slope = penalty_of(rows(), policy, gradient)
    value, got = penalty_of((rows() * scale).float(), policy, gradient)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.isfinite(got).all()
    # float32 cannot hold a gradient below 1e-38 to full precision
    wanted = slope / scale
    assert torch.allclose(got.double(), wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.fault("a number beyond the range of its type")
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_rows_of_all_scales_together(gradient: str) -> None:
    scales = torch.logspace(-30, 30, D_SAE, dtype=torch.float64)[:, None]
    expected, slope = penalty_of(rows(), "fixed", gradient)
    value, got = penalty_of((rows() * scales).float(), "fixed", gradient)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(got.double() * scales, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.fault("a number beyond the range of its type")
def test_a_gradient_beyond_float32_is_infinite_and_zero_stays_zero() -> None:
    value, got = penalty_of((rows() * 1e-41).float(), "fixed", "symmetric")
    assert value.item() == pytest.approx(
        penalty_of(rows(), "fixed", "symmetric")[0].item(), rel=0.1
    )
    assert not torch.isnan(got).any()
    assert torch.isinf(got).any()
    assert not got[5].any()


def test_a_row_that_is_not_finite_shows(backend: str) -> None:
    for bad in (float("nan"), float("inf")):
        W = rows().float()
        W[3, 2] = bad
        value, got = penalty_of(W, "fixed", "symmetric")
        assert torch.isnan(value) or backend == "rust"
        assert torch.isnan(got[3]).any()


def test_rows_of_common_norms_are_not_copied() -> None:
    W = rows().float() * torch.logspace(-8, 8, D_SAE)[:, None]
    same, norm, exponent = at_safe_scale(W)
    assert same is W
    assert exponent is None
    assert torch.equal(norm, W.norm(dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scaled_rows_are_the_rows_times_powers_of_two(dtype: torch.dtype) -> None:
    reach = 38 if dtype == torch.float32 else 300
    W = (rows() * torch.logspace(-reach, reach - 2, D_SAE, dtype=torch.float64)[:, None]).to(dtype)
    scaled, norm, exponent = at_safe_scale(W)
    assert exponent is not None
    assert exponent[5] == 0
    assert torch.equal(torch.ldexp(W.double(), exponent[:, None].double()).to(dtype), scaled)
    assert torch.allclose(norm.double(), scaled.double().norm(dim=1), rtol=1e-6)


@pytest.mark.fault("a number beyond the range of its type")
@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1.0, 1e30, 1e200])
def test_cosines_as_a_score_and_norms_of_codes(scale: float) -> None:
    i, j = torch.triu_indices(D_SAE, D_SAE, 1)
    W = rows() * scale
    plain = rows().numpy()
    pairs = zip(i.tolist(), j.tolist(), strict=True)
    expected = torch.tensor([naive.cosine(plain, a, b) for a, b in pairs], dtype=torch.float64)
    cosine = Cosine(W, memory_budget=2**20)(i, j)
    assert torch.allclose(cosine, expected, atol=1e-12)
    if 1e-38 < scale < 1e38:
        assert torch.allclose(row_norms(W.float()).double(), W.norm(dim=1), rtol=1e-6)
        acts = torch.ones(2, D_SAE) / scale
        codes = codes_of_unit_rows(Codes.of(acts), W.float())
        assert codes.nnz == 2 * (D_SAE - 1)
        wanted = rows().norm(dim=1)[codes.col]
        assert torch.allclose(codes.value.double(), wanted, rtol=1e-5)
