"""Memory runs out in a selection: the same pairs, in half the memory, as often as it takes."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch

from topk_ortho import PairSelector
from topk_ortho.constraint.selection import paths, retry

BUDGET = 64 * 2**20
FAILURES: dict[str, Callable[[], Exception]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "torch-cpu": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
    ),
    "windows": lambda: RuntimeError("not enough memory: you tried to allocate 9 bytes."),
    "numpy": lambda: MemoryError("Unable to allocate 7.11 PiB"),
}


def acts() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(24, 400, generator=generator)
    return x * (x > 0.98)


EVIDENCE = {"W_dec": torch.randn(400, 8, generator=torch.Generator().manual_seed(1))}


class Scarce:
    """Stands for a path of selection; fails while the budget is above what there is."""

    def __init__(self, path: Callable[..., object], there_is: int, failure: str):
        self.path, self.there_is, self.failure = path, there_is, failure
        self.budgets: list[int] = []

    def __call__(self, name: str, e, *args: object, **kwargs: object) -> object:
        self.budgets.append(e.memory_budget)
        if e.memory_budget > self.there_is:
            raise FAILURES[self.failure]()
        return self.path(name, e, *args, **kwargs)


CASES = [
    ("coactivation", "torch", "coactive"),
    ("coactivation", "auto", "native"),
    ("decoder-cosine", "auto", "tiled"),
]


@pytest.mark.fault("out of memory in a selection")
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(("criterion", "backend", "path"), CASES)
def test_the_same_selection_in_half_the_memory(
    criterion: str, backend: str, path: str, failure: str, monkeypatch, caplog
) -> None:
    evidence = EVIDENCE if criterion == "decoder-cosine" else {}
    options = {"per_feature": 1.0, "backend": backend, "memory_budget": BUDGET}
    expected = PairSelector(criterion, **options)(acts(), **evidence)
    scarce = Scarce(getattr(paths, path), BUDGET // 5, failure)
    monkeypatch.setattr(paths, path, scarce)
    select = PairSelector(criterion, **options)
    with caplog.at_level(logging.WARNING):
        got = select(acts(), **evidence)
        again = select(acts(), **evidence)
    assert scarce.budgets == [BUDGET, BUDGET // 2, BUDGET // 4, BUDGET // 8, BUDGET // 8]
    for one in (got, again):
        assert torch.equal(one.i, expected.i) and torch.equal(one.j, expected.j)
        assert torch.equal(one.score, expected.score)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and f"--pairs.memory-budget {BUDGET // 8}" in said[0]


@pytest.mark.fault("out of memory in a selection")
def test_at_the_least_budget_it_gives_up(monkeypatch) -> None:
    scarce = Scarce(paths.native, 0, "numpy")
    monkeypatch.setattr(paths, "native", scarce)
    select = PairSelector("coactivation", memory_budget=BUDGET)
    with pytest.raises(MemoryError):
        select(acts())
    assert scarce.budgets[-1] == retry.LEAST_BUDGET and len(scarce.budgets) == 7
    assert select.memory_budget == BUDGET


def test_a_budget_below_the_least_is_tried_once(monkeypatch) -> None:
    scarce = Scarce(paths.native, 0, "numpy")
    monkeypatch.setattr(paths, "native", scarce)
    with pytest.raises(MemoryError):
        PairSelector("coactivation", memory_budget=1000)(acts())
    assert scarce.budgets == [1000]


@pytest.mark.parametrize("error", [ValueError("score of pair"), RuntimeError("shape mismatch")])
def test_other_errors_are_not_retried(error: Exception, monkeypatch) -> None:
    tried: list[int] = []

    def broken(name: str, e, *args: object, **kwargs: object) -> None:
        tried.append(e.memory_budget)
        raise error

    monkeypatch.setattr(paths, "native", broken)
    with pytest.raises(type(error)):
        PairSelector("coactivation", memory_budget=BUDGET)(acts())
    assert tried == [BUDGET]


@pytest.mark.fault("out of memory in a selection")
def test_a_real_allocation_that_fails_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert retry.is_out_of_memory(caught.value)


def test_nothing_of_a_failed_attempt_is_held(monkeypatch) -> None:
    import weakref

    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def attempt(budget: int) -> int:
        alive.extend(ref() is not None for ref in held)
        block = torch.ones(1000)
        held.append(weakref.ref(block))
        if budget > retry.LEAST_BUDGET:
            raise MemoryError
        return budget

    assert retry.halving(attempt, 4 * retry.LEAST_BUDGET)[1] == retry.LEAST_BUDGET
    assert alive and not any(alive)
