"""Adam over transposed memory is Adam."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from topk_ortho.training.optimizer import Adam


def parameters(*, transposed: bool) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 9, generator=generator)
    matrix = matrix.T.contiguous().T if transposed else matrix
    return {"W": nn.Parameter(matrix), "b": nn.Parameter(torch.zeros(4))}


def run(ours: dict[str, nn.Parameter], adam: Adam, *, steps: int, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        adam.zero_grad()
        for p in ours.values():
            gradient = torch.randn(p.shape, generator=generator)
            p.grad = gradient if p.is_contiguous() else gradient.T.contiguous().T
        adam.step(0.01)


@pytest.mark.parametrize("transposed", [False, True])
def test_it_moves_as_torchs_adam(transposed: bool) -> None:
    ours, theirs = parameters(transposed=transposed), parameters(transposed=False)
    run(ours, Adam(ours.items(), betas=(0.9, 0.99)), steps=5)
    reference = torch.optim.Adam(theirs.values(), lr=0.01, betas=(0.9, 0.99), fused=True)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        for p in theirs.values():
            p.grad = torch.randn(p.shape, generator=generator)
        reference.step()
    for name, p in ours.items():
        assert torch.equal(p, theirs[name])


def test_stored_moments_go_on_exactly() -> None:
    ours = parameters(transposed=True)
    adam = Adam(ours.items(), betas=(0.9, 0.99))
    run(ours, adam, steps=3)
    moments = {name: value.clone() for name, value in adam.tensors().items()}
    again = {name: nn.Parameter(p.detach().clone()) for name, p in ours.items()}
    resumed = Adam(again.items(), betas=(0.9, 0.99))
    resumed.load(moments)
    for pair in ((ours, adam), (again, resumed)):
        run(*pair, steps=2, seed=7)
    for name, p in ours.items():
        assert torch.equal(p, again[name])


def test_a_parameter_without_gradient_stays() -> None:
    ours = parameters(transposed=True)
    before = ours["W"].detach().clone()
    adam = Adam(ours.items(), betas=(0.9, 0.99))
    ours["b"].grad = torch.ones(4)
    adam.step(0.1)
    assert torch.equal(ours["W"], before)
    assert (ours["b"] != 0).all()
