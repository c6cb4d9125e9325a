"""What a selection is said to hold is what it holds."""

from __future__ import annotations

import pytest
import torch

from tests.constraint.selection.test_drawn import sparse_codes
from topk_ortho import PairSelector
from topk_ortho.constraint.selection.ledger import Ledger

KB = 1000  # elements of 4 bytes


def test_the_peak_is_what_was_alive_at_once() -> None:
    given = torch.ones(KB)
    with Ledger([given]) as ledger:
        first = given + 1  # 4,000 bytes
        second = first * 2  # 8,000
        del first
        third = second.double()  # 4,000 + 8,000
        del second, third
        _ = given[:10]  # a view of what was there before
        _ = given * 3
    assert ledger.peak == sum(ledger.at_peak.values()) == 12 * KB


def test_a_view_keeps_its_storage_and_counts_once() -> None:
    with Ledger([]) as ledger:
        whole = torch.zeros(KB)
        half = whole[: KB // 2]
        del whole
        _ = half + torch.zeros(KB // 2)
    assert ledger.peak == 4 * KB + 2 * (2 * KB)


def test_arrays_that_rust_hands_over_count_when_they_are_first_seen() -> None:
    array = torch.from_numpy(torch.ones(KB).numpy().copy())
    with Ledger([]) as ledger:
        _ = array.sum()
    assert 4 * KB <= ledger.peak <= 4 * KB + 8


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_selection_accounts_for_its_temporaries(backend: str) -> None:
    codes = sparse_codes(600)
    select = PairSelector("correlation", per_feature=1, backend=backend)
    expected = select(codes)
    selection, held = select.tracked(codes)
    assert torch.equal(selection.i, expected.i)
    # columns i, j, sum of the largest block, and moments of every feature, cannot be missing
    maker = "native.py blocks" if backend == "auto" else "coactive.py"
    maker = f"constraint/selection/{maker}"
    blocks = sum(size for name, size in held.items() if name.startswith(maker))
    assert blocks >= 24 * selection.largest_block > 0
    assert held["constraint/criteria/coactive.py correlation"] >= 2 * 8 * 600
    assert held.get("rust buffers", 0) > 0 or backend == "torch"
    assert sum(held.values()) < select.memory_budget
    assert "elsewhere" not in held


def test_a_smaller_budget_gives_more_blocks_and_the_same_pairs() -> None:
    codes = sparse_codes(600, per_row=20)
    large, small = (
        PairSelector("correlation", per_feature=1, memory_budget=budget)(codes)
        for budget in (2**28, 2**20)
    )
    assert large.blocks == 1 < small.blocks
    assert 96 * small.largest_block <= 2**20 < 96 * large.largest_block
    for name in ("i", "j", "score"):
        assert torch.equal(getattr(large, name), getattr(small, name))
