"""The class meter against its naive twins, and how its work grows with the vocabulary."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from topk_ortho.inspect.absorption.classes import Member, on
from topk_ortho.inspect.absorption.random_classes import NEAREST, RandomClasses


def naive_on(contexts: torch.Tensor, members: frozenset[Member]) -> torch.Tensor:
    """At the last token of each member, one place at a time."""
    found = torch.zeros(contexts.shape, dtype=torch.bool)
    for n, row in enumerate(contexts.tolist()):
        for member in members:
            for start in range(len(row) - len(member) + 1):
                if tuple(row[start : start + len(member)]) == member:
                    found[n, start + len(member) - 1] = True
    return found


def naive_draw(
    contexts: torch.Tensor, bos: int, members: frozenset[Member], generator: torch.Generator
) -> frozenset[Member]:
    """For each member all sequences of its length, sorted by the ratio of frequencies."""
    drawn = set[Member]()
    for member in sorted(members):
        times: dict[Member, int] = {}
        for row in contexts.tolist():
            for start in range(len(row) - len(member) + 1):
                window = tuple(row[start : start + len(member)])
                if bos not in window:
                    times[window] = times.get(window, 0) + 1
        own = times[member]
        order = sorted(sorted(times), key=lambda m: max(times[m], own) / min(times[m], own))
        near = [m for m in order if m not in members and m not in drawn][:NEAREST]
        if near:
            drawn.add(near[int(torch.randint(len(near), (1,), generator=generator))])
    return frozenset(drawn)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), vocabulary=st.integers(2, 40), share=st.floats(0.05, 0.9))
def test_a_draw_and_a_class_are_those_of_the_naive_twins(
    seed: int, vocabulary: int, share: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    contexts = (torch.rand(12, 9, generator=generator) ** 3 * vocabulary).long() + 2
    contexts[:, 0] = 1
    random = RandomClasses(contexts, bos=1)
    unfolded = [contexts.unfold(1, n, 1).reshape(-1, n).tolist() for n in (1, 2, 3)]
    windows = [tuple(window) for windows in unfolded for window in windows]
    chosen = {w for w in windows if float(torch.rand((), generator=generator)) < share}
    members = random.present(chosen)
    assert torch.equal(on(contexts, chosen), naive_on(contexts, frozenset(chosen)))
    a, b = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    assert random.draw(members, a) == naive_draw(contexts, 1, members, b)


class Elements(TorchDispatchMode):
    """Counts the elements that torch reads and writes."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in (*args, *(out if isinstance(out, tuple) else (out,))):
            self.total += value.numel() if isinstance(value, torch.Tensor) else 0
        return out


def work(act: Callable[[], object]) -> int:
    """Elements that torch touched and calls that Python made."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    with Elements() as elements:
        sys.setprofile(count)
        try:
            act()
        finally:
            sys.setprofile(None)
    return elements.total + calls


def text_of(vocabulary: int) -> torch.Tensor:
    """About four tokens for each of the vocabulary, by Zipf's law."""
    generator = torch.Generator().manual_seed(0)
    rates = 1 / torch.arange(1, vocabulary + 1).double()
    drawn = torch.multinomial(rates, 4 * vocabulary, replacement=True, generator=generator)
    contexts = drawn.view(-1, 64) + 2
    contexts[:, 0] = 1
    return contexts


@pytest.mark.parametrize("length", [1, 2])
def test_the_work_grows_with_the_text_and_not_with_its_square(length: int) -> None:
    """A quarter of all tokens as one class, such as those that begin with a capital."""
    work(lambda: torch.zeros(1))  # what torch loads for its first count
    done = []
    for vocabulary in (768, 6144):
        contexts = text_of(vocabulary)
        random = RandomClasses(contexts, bos=1)
        windows = contexts[:, 1:].unfold(1, length, 1).reshape(-1, length)
        members = random.present(map(tuple, windows[:: 4 * length].tolist()))
        assert len(members) > vocabulary / 16
        generator = torch.Generator().manual_seed(0)
        done.append(
            work(lambda: on(contexts, random.draw(members, generator)))  # noqa: B023
        )
    assert done[1] < 2 * 8 * done[0], "eight times the text, and hardly more than as much work"


def test_a_vocabulary_of_a_real_model_is_drawn_from_and_labelled() -> None:
    contexts = text_of(49_152)
    random = RandomClasses(contexts, bos=1)
    members = random.present((token,) for token in range(2, 49_152, 4))
    other = random.draw(members, torch.Generator().manual_seed(0))
    assert len(other) == len(members) > 5000
    assert not other & members
    rates = [float(on(contexts, tokens).double().mean()) for tokens in (members, other)]
    assert 0.5 < rates[0] / rates[1] < 2
