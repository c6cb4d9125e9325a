"""The summary of `topk-ortho absorption` says what its mean rests on."""

from __future__ import annotations

import torch

from topk_ortho.inspect.absorption.text import _rests_on
from topk_ortho.metrics import absorption
from topk_ortho.metrics.absorption import AbsorptionResult, Matching


def measured(children: int, *, alone: int) -> AbsorptionResult:
    """A parent on `alone` tokens by itself, and on 30 with each of its children."""
    rows = alone + 30 * children
    on = torch.zeros(rows, 1 + children, dtype=torch.bool)
    on[:, 0] = True
    for child in range(children):
        on[alone + 30 * child : alone + 30 * (child + 1), 1 + child] = True
    acts = on.float()
    edges = [(0, 1 + child) for child in range(children)]
    return absorption.measure(acts, on, edges, Matching.given(torch.arange(1 + children)))


def test_nothing_is_said_where_many_edges_have_enough_tokens() -> None:
    assert _rests_on(measured(5, alone=20)) == []


def test_a_mean_over_few_edges_is_said_to_be_one() -> None:
    (said,) = _rests_on(measured(2, alone=40))
    assert said.startswith("excess rests on 2 edges alone")


def test_a_side_with_few_tokens_is_told_of() -> None:
    few, thin = _rests_on(measured(6, alone=19))
    assert few.startswith("excess rests on no edge")
    assert thin.startswith("6 edges have fewer than 20 tokens of the parent without a child")
