"""The sparse path against its dense twin: same codes, same reconstructions, same gradients."""

from __future__ import annotations

import pytest
import torch

from topk_ortho.config import SAEConfig
from topk_ortho.sae import ARCHITECTURES, SAE, build

D_IN, D_SAE, BATCH = 12, 500, 40
KINDS = ARCHITECTURES.names()


def trained(kind: str, *, bias: float = 0.0) -> SAE:
    """An SAE whose weights are not at their start, and with an off-centre `b_dec`."""
    sae = build(SAEConfig(kind=kind, d_sae=D_SAE, k=4), d_in=D_IN, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        sae.b_enc.add_(bias)
    return sae


def batch(seed: int = 3) -> torch.Tensor:
    return torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(seed))


def gradients(sae: SAE, *, sparse: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A loss with every term a step has: reconstructions and sparsity (of JumpReLU, L0)."""
    sae.zero_grad()
    x = batch()
    out = sae.training_pass(x, sparse=sparse)
    loss = sum((x - x_hat).pow(2).sum(1).mean() for x_hat in out.x_hat)
    loss = loss + 0.3 * sae.sparsity(out)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in sae.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_sparse_path_is_the_dense_one(kind: str) -> None:
    sae = trained(kind)
    dense, sparse = sae.training_pass(batch()), sae.training_pass(batch(), sparse=True)
    assert torch.equal(dense.codes.crow, sparse.codes.crow)
    assert torch.equal(dense.codes.col, sparse.codes.col)
    assert torch.equal(dense.codes.value, sparse.codes.value)
    assert torch.equal(sparse.code, sparse.codes.value)
    for a, b in zip(dense.x_hat, sparse.x_hat, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "bias", [0.0, -1.5, -9.0], ids=["usual", "rows without code", "all silent"]
)
def test_gradients_are_equal(kind: str, bias: float) -> None:
    sae = trained(kind, bias=bias)
    dense_loss, dense = gradients(sae, sparse=False)
    sparse_loss, sparse = gradients(sae, sparse=True)
    torch.testing.assert_close(dense_loss, sparse_loss, rtol=1e-5, atol=1e-6)
    for name, gradient in dense.items():
        torch.testing.assert_close(sparse[name], gradient, rtol=1e-5, atol=1e-5, msg=name)


def test_gradients_hold_in_double() -> None:
    sae = trained("topk").double()
    x = batch().double()

    class Sparse(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sae = sae

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.sae.training_pass(x, sparse=True).x_hat[-1]

    module = Sparse()

    def forward(*parameters: torch.Tensor) -> torch.Tensor:
        names = [name for name, _ in module.named_parameters()]
        weights = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(module, weights, (x,))

    # a TopK code is constant in which entries it keeps, almost everywhere
    some = tuple(p.detach().requires_grad_() for p in sae.parameters())
    assert torch.autograd.gradcheck(forward, some, eps=1e-7, atol=1e-5, fast_mode=True)


def test_no_dense_gradient_of_the_code_is_made() -> None:
    sae = trained("topk")
    out = sae.training_pass(batch(), sparse=True)
    assert not out.pre.requires_grad
    assert out.code.numel() == out.codes.nnz == 4 * BATCH


def test_a_nan_survives_to_be_seen() -> None:
    sae = trained("topk")
    with torch.no_grad():
        sae.W_enc[0, 0] = float("nan")
    assert torch.isnan(sae.training_pass(batch(), sparse=True).x_hat[-1]).any()


def test_the_encoder_lies_feature_by_feature_where_sparse_steps_are_expected() -> None:
    assert trained("topk").W_enc.T.is_contiguous()
    small = build(SAEConfig(kind="topk", d_sae=20, k=4), d_in=D_IN, seed=1)
    assert small.W_enc.is_contiguous()
