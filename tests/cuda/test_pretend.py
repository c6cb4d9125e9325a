"""The pretended GPU refuses what a real one refuses, and counts what makes the host wait."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.cuda.pretend import CUDA, MixedDevicesError, Pretend, pretend, waits


@pytest.fixture
def x(gpu: torch.device) -> Tensor:
    return pretend(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))


def test_it_says_that_it_is_on_the_gpu(x: Tensor) -> None:
    for y in (x, x + 1, x @ x, x.T[0], torch.zeros_like(x), x.new_empty(3), x.sum(), x.double()):
        assert isinstance(y, Pretend) and y.device == CUDA and y.is_cuda
    for y in (torch.zeros(3, device=CUDA), torch.arange(3, device="cuda"), torch.ones(2).to(CUDA)):
        assert isinstance(y, Pretend)
    assert not isinstance(torch.zeros(3), Pretend) and not isinstance(x.cpu(), Pretend)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + torch.ones(2),
        lambda x: x @ torch.ones(2, 2),
        lambda x: torch.where(torch.ones(2, 2) > 0, x, 0.0),
        lambda x: torch.cat([x, torch.ones(1, 2)]),
        lambda x: x.index_add_(0, torch.tensor([0, 1]), x),
        lambda x: x.add_(torch.ones(2)),
    ],
)
def test_mixed_devices_are_refused(mix: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with pytest.raises(MixedDevicesError):
        mix(x)


def test_scalars_of_the_host_may_take_part(x: Tensor) -> None:
    assert torch.equal((x * torch.tensor(2.0)).cpu(), torch.tensor([[2.0, 0.0], [6.0, 8.0]]))


def test_numpy_cannot_see_it(x: Tensor) -> None:
    with pytest.raises(TypeError):
        x.numpy()


@pytest.mark.parametrize(
    ("wait", "times"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: bool((x > 0).all()), 1),
        (lambda x: int(x[0, 0]), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x.to("cpu"), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: torch.equal(x, x), 1),
        (lambda x: torch.bincount(x.flatten().long()), 1),
        (lambda x: torch.repeat_interleave(x.flatten().long()), 1),
        (lambda x: torch.repeat_interleave(x.flatten().long(), output_size=8), 0),
        (lambda x: x[torch.zeros(1, dtype=torch.int64, device=CUDA)], 0),
        (lambda x: x.sort(0).values.cumsum(0).topk(1), 0),
        (lambda x: torch.where(x > 0, x, 0.0).relu().argsort(), 0),
    ],
)
def test_what_waits_is_counted(wait: Callable[[Tensor], object], times: int, x: Tensor) -> None:
    waits.clear()
    wait(x)
    assert sum(waits.values()) == times


def test_gradients_stay_on_the_device(x: Tensor) -> None:
    w = torch.nn.Parameter(x)
    (w.relu() @ w).sum().backward()
    assert isinstance(w.grad, Pretend)
    other = torch.nn.Parameter(x.cpu())
    (other.relu() @ other).sum().backward()
    assert other.grad is not None and torch.equal(w.grad.cpu(), other.grad)


def test_a_change_in_place_reaches_what_it_is_a_view_of(x: Tensor) -> None:
    row = x[0]
    assert row.add_(1) is row
    assert x.cpu()[0].tolist() == [2.0, 1.0]
