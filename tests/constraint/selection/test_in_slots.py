"""The selection in slots against the definition: sizes, ties, saturation, silent entries."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.constraint.selection.test_selector import SUMS, codes, evidence
from topk_ortho import PairSelector
from topk_ortho.constraint.criteria import CRITERIA, CoactiveSum
from topk_ortho.constraint.criteria.inputs import SelectorInputs
from topk_ortho.constraint.penalty import OrthogonalityPenalty
from topk_ortho.constraint.selection import PairSelection, in_slots, paths
from topk_ortho.constraint.selection.selection import LOST, SlotSelection
from topk_ortho.constraint.slots import Slots
from topk_ortho.sparse.codes import Codes


def selected(criterion: str, batch: Codes, k: int, **given: torch.Tensor) -> SlotSelection:
    record = CRITERIA[criterion]
    assert isinstance(record.form, CoactiveSum)
    inputs = {name: given[name] for name in record.required_inputs}
    e = SelectorInputs(batch, 2**28, **inputs)
    got = paths.in_slots(record.form, e, k, min_support=2)
    assert isinstance(got, SlotSelection)
    return got


def same(got: PairSelection, expected: PairSelection) -> None:
    assert (got.positive, got.unsupported) == (expected.positive, expected.unsupported)
    for name in ("i", "j", "score"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name


@pytest.mark.parametrize("criterion", SUMS)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    share=st.sampled_from([0.001, 0.05, 0.5, 1.0]),
    whole=st.booleans(),
)
def test_it_is_the_selection_of_rust(criterion: str, seed: int, share: float, whole: bool) -> None:
    acts = codes(seed)
    acts = (acts * 3).ceil() if whole else acts  # whole numbers tie
    given = evidence(acts, seed)
    select = PairSelector(criterion, fraction=share, min_support=2)
    expected = select(acts, **{name: given[name] for name in select.required_inputs})
    same(selected(criterion, Codes.of(acts), expected.requested, **given), expected)


@pytest.mark.parametrize("d_sae", [64, 46_341, 65_537, 2**21])
def test_keys_of_every_width_give_the_same_pairs(d_sae: int) -> None:
    small = Codes.of(codes(3, d_sae=64))
    at = torch.randperm(d_sae, generator=torch.Generator().manual_seed(0))[:64].sort().values
    wide = Codes(small.crow, small.row, at[small.col], small.value, d_sae)
    expected = PairSelector("coactivation", per_feature=2)(small)
    got = selected("coactivation", wide, 128)
    assert torch.equal(got.i, at[expected.i]) and torch.equal(got.j, at[expected.j])
    assert torch.equal(got.score, expected.score)


@pytest.mark.parametrize("criterion", SUMS)
def test_silent_entries_change_nothing(criterion: str) -> None:
    acts = codes(7)
    given = evidence(acts, 7)
    on = Codes.of(acts)
    value, col = acts.topk(20, dim=1)
    col, order = col.sort(dim=1)
    row = torch.arange(len(acts)).repeat_interleave(20)
    value = value.gather(1, order).flatten()
    batch = Codes.in_slots(row, col.flatten(), value, batch=len(acts), d_sae=on.d_sae, per_row=20)
    assert batch.nnz > batch.active == on.nnz
    assert torch.equal(batch.counts(), on.counts())
    assert torch.equal(batch.column_minima(), on.column_minima())
    same(selected(criterion, batch, 60, **given), selected(criterion, on, 60, **given))


def test_sums_far_below_the_largest_keep_their_bits() -> None:
    acts = torch.zeros(3, 6)
    acts[0, :2] = 1e15
    acts[1, 2:4] = torch.tensor([1.1e-3, 1.7e-3])
    acts[2, 2:4] = torch.tensor([2.3e-3, 1.9e-3])
    expected = PairSelector("coactivation", fraction=1.0)(acts)
    same(selected("coactivation", Codes.of(acts), 15), expected)


def test_a_score_beyond_float32_is_refused_by_name() -> None:
    acts = torch.full((2, 3), 1e30)
    got = selected("coactivation", Codes.of(acts), 2)
    with pytest.raises(ValueError, match="score of pair i = 0, j = 1 is inf"):
        _ = got.i


def test_a_selection_that_lost_pairs_selects_again() -> None:
    batch = Codes.of(codes(5))
    whole = selected("coactivation", batch, 40)
    empty = Slots(torch.zeros(40).long(), torch.zeros(40).long(), torch.zeros(40))
    lost = SlotSelection(
        empty, torch.tensor([0, 0, LOST]), 40, "slots", again=lambda: whole.settled
    )
    same(lost, whole)
    assert lost.saturation == whole.saturation and len(lost) == 40


def test_what_does_not_fit_the_budget_is_left_to_blocks() -> None:
    batch = Codes.of(codes(5))
    form = CRITERIA["coactivation"].form
    assert isinstance(form, CoactiveSum)
    budget = in_slots.BYTES_PER_PRODUCT * batch.products
    for least, fits in ((budget + 64 * 40, True), (budget // 2, False)):
        e = SelectorInputs(batch, least)
        assert (paths.in_slots(form, e, 40, min_support=1) is not None) == fits


@pytest.mark.parametrize("normalize_by", ["d_sae", "k"])
@pytest.mark.parametrize(
    "tau", ["fixed", "mean-std", "mean-std-all", "strength", "strength-threshold", "stability"]
)
def test_empty_slots_cost_nothing(tau: str, normalize_by: str) -> None:
    batch = Codes.of(codes(5))
    W = torch.nn.Parameter(torch.randn(40, 6, generator=torch.Generator().manual_seed(1)))
    chosen = selected("coactivation", batch, 780)  # all pairs, of which some never meet
    slots = chosen.slots
    assert len(chosen) < len(slots.score)
    penalty = OrthogonalityPenalty(tau, normalize_by=normalize_by, backend="torch")
    rate, ema = batch.counts() / batch.batch, chosen.score / 9
    cost = penalty(W, chosen, firing_rate=rate, ema=ema)
    (grad,) = torch.autograd.grad(cost, W)
    expected = penalty(W, chosen.settled, firing_rate=rate, ema=ema)
    (expected_grad,) = torch.autograd.grad(expected, W)
    torch.testing.assert_close(cost, expected)
    torch.testing.assert_close(grad, expected_grad)
