"""The constraint inside a function that `torch.compile` compiles: one cut, and the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from topk_ortho import Orthogonality, OrthogonalityPenalty, PairSelector

D_IN, D_SAE, K, STEPS = 16, 96, 6, 4
Loss = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def codes_of(x: Tensor, W_enc: Tensor) -> Tensor:
    before = torch.relu(x @ W_enc)
    value, index = before.topk(K)
    return torch.zeros_like(before).scatter(1, index, value)


def in_one_line() -> Loss:
    constraint = Orthogonality()

    def loss(x: Tensor, W_enc: Tensor, W_dec: Tensor, step: int) -> Tensor:
        codes = codes_of(x, W_enc)
        error = (codes @ W_dec - x).square().sum(1).mean()
        return error + constraint(codes, W_dec, step, target=x)

    return loss


def in_two_lines() -> Loss:
    select, penalty = (
        PairSelector(per_feature=2.5),
        OrthogonalityPenalty(tau="fixed", threshold=0.0),
    )

    def loss(x: Tensor, W_enc: Tensor, W_dec: Tensor, step: int) -> Tensor:
        codes = codes_of(x, W_enc)
        pairs = select(codes.detach())
        rates = (codes > 0).float().mean(0)
        error = (codes @ W_dec - x).square().sum(1).mean()
        return error + 500.0 * penalty(W_dec, pairs, firing_rate=rates)

    return loss


def losses(loss: Loss) -> list[tuple[float, float]]:
    """Loss and norm of the decoder's gradient, step by step."""
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn(D_SAE, D_IN, generator=generator), dim=1)
    W_dec = W_dec.requires_grad_()
    W_enc = torch.randn(D_IN, D_SAE, generator=generator).requires_grad_()
    optimizer = torch.optim.SGD([W_dec, W_enc], lr=1e-3)
    found = []
    for step in range(STEPS):
        x = torch.randn(64, D_IN, generator=generator)
        value = loss(x, W_enc, W_dec, step)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append((value.item(), W_dec.grad.norm().item()))
    return found


@pytest.mark.parametrize("made", [in_one_line, in_two_lines])
def test_a_compiled_loss_has_the_penalty_and_its_gradient(made, recwarn) -> None:
    torch.compiler.reset()
    compiled = losses(torch.compile(made(), backend="aot_eager"))
    said = [str(warning.message) for warning in recwarn if "Dynamo" in str(warning.message)]
    assert not said, "the compiler went into what it cannot follow"
    torch.testing.assert_close(compiled, losses(made()), rtol=1e-5, atol=0)


def test_without_the_constraint_the_numbers_are_others() -> None:
    def bare(x: Tensor, W_enc: Tensor, W_dec: Tensor, step: int) -> Tensor:
        return (codes_of(x, W_enc) @ W_dec - x).square().sum(1).mean()

    assert losses(bare)[0][1] != pytest.approx(losses(in_two_lines())[0][1], rel=1e-3)
