"""The class meter against its naive twins, and how its work grows with the vocabulary."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from topk_ortho.activations.source import Split
from topk_ortho.inspect.absorption.classes import Member, TokenClasses, on
from topk_ortho.inspect.absorption.gate import HALVES, ProbedText, judge
from topk_ortho.inspect.absorption.random_classes import NEAREST, RandomClasses
from topk_ortho.metrics.probe import LinearProbe


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
    drawn = [*islice(random.draws(members, a), 3)]
    assert drawn == [naive_draw(contexts, 1, members, b) for _ in drawn]


def test_the_verdicts_are_those_of_the_naive_twins() -> None:
    generator = torch.Generator().manual_seed(0)
    contexts = (torch.rand(80, 16, generator=generator) ** 2 * 30).long() + 2
    contexts[:, 0] = 1
    halves: dict[Split, torch.Tensor] = {"train": contexts[:40], "eval": contexts[40:]}
    kept = {half: rows != 1 for half, rows in halves.items()}
    x = {half: torch.randn(int(at.sum()), 6, generator=generator) for half, at in kept.items()}
    probe = LinearProbe(x["train"], x["eval"])
    members = (frozenset({(2,), (5,), (6, 3)}), frozenset({(4,), (9,), (11,), (12,)}))
    classes = TokenClasses(("a", "b"), members, ((0, 1),))
    found = list(judge(classes, ProbedText(halves, 1, probe), draws=4, seed=7))
    for index, (verdict, own) in enumerate(zip(found, members, strict=True)):
        rng = torch.Generator().manual_seed(7 + index)
        there = RandomClasses(contexts, bos=1).present(own)
        draws = [naive_draw(contexts, 1, there, rng) for _ in range(4)]
        f1 = [
            probe.f1(*(naive_on(halves[half], some)[kept[half]] for half in HALVES))
            for some in (own, *draws)
        ]
        assert [verdict.probe_f1, *verdict.random_f1] == f1


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


def test_the_gate_takes_ten_times_as_long_for_ten_times_the_text() -> None:
    times, done = 10, []
    for vocabulary in (400, 400 * times):
        contexts = text_of(vocabulary)
        half = len(contexts) // 2
        halves: dict[Split, torch.Tensor] = {"train": contexts[:half], "eval": contexts[half:]}
        x = {name: torch.randn(int((rows != 1).sum()), 4) for name, rows in halves.items()}
        text = ProbedText(halves, 1, LinearProbe(x["train"], x["eval"]))
        members = frozenset((token,) for token in range(2, vocabulary, 4))
        classes = TokenClasses(("every fourth",), (members,), ())
        done.append(work(lambda: list(judge(classes, text, draws=5, seed=0))))  # noqa: B023
    assert done[1] < 2 * times * done[0]


def test_a_vocabulary_of_a_real_model_is_drawn_from_and_labelled() -> None:
    contexts = text_of(49_152)
    random = RandomClasses(contexts, bos=1)
    members = random.present((token,) for token in range(2, 49_152, 4))
    other = random.draw(members, torch.Generator().manual_seed(0))
    assert len(other) == len(members) > 5000
    assert not other & members
    rates = [float(on(contexts, tokens).double().mean()) for tokens in (members, other)]
    assert 0.5 < rates[0] / rates[1] < 2
