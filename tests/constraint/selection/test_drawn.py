"""Criteria with chance in them: OrtSAE's pairs, and random pairs matched in firing rate."""

from __future__ import annotations

import time

import pytest
import torch
from torch.nn import functional as F

from topk_ortho import OrthogonalityPenalty, PairSelector
from topk_ortho.constraint.criteria import matched, ortsae
from topk_ortho.constraint.criteria.matched import (
    LEAST_GROUP,
    RATE_RATIO,
    Permutations,
    groups,
    matched_pairs,
)
from topk_ortho.constraint.selection import PairSelection
from topk_ortho.sparse.codes import Codes

SMALLEST = 2**20
ORTSAE = OrthogonalityPenalty(tau=0.0, gradient="symmetric")


def decoder(d_sae: int, d_in: int, *, seed: int = 0) -> torch.Tensor:
    """Rows of many lengths."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(d_sae, d_in, generator=generator)
    return rows * (0.5 + torch.rand(d_sae, 1, generator=generator))


def definition(W_dec: torch.Tensor, chunks: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Mean over features of the squared largest cosine within chunks, the matrix and all."""
    total = W_dec.new_zeros(())
    for chunk in chunks:
        rows = F.normalize(W_dec[chunk], dim=1)
        cosine = (rows @ rows.T) - 2 * torch.eye(len(chunk))
        total = total + cosine.max(1).values.square().sum()
    return total / len(W_dec)


def nearest(W_dec: torch.Tensor, *, step: int = 0, budget: int = SMALLEST, seed: int = 0):
    select = PairSelector("ortsae", memory_budget=budget, seed=seed)
    return select(torch.zeros(1, len(W_dec)), W_dec=W_dec, step=step)


@pytest.mark.parametrize(("d_sae", "d_in", "chunk"), [(64, 8, 8192), (300, 16, 64), (700, 24, 300)])
def test_ortsae_is_its_definition_in_value_and_gradient(d_sae, d_in, chunk, monkeypatch):
    monkeypatch.setattr(ortsae, "CHUNK", chunk)
    W_dec = decoder(d_sae, d_in).requires_grad_()
    got = nearest(W_dec, step=7)
    loss = ORTSAE(W_dec, got)
    (gradient,) = torch.autograd.grad(loss, W_dec)
    chunks = ortsae.partition(d_sae, seed=7)
    assert len(chunks) == -(-d_sae // chunk)
    expected = definition(W_dec, chunks)
    (expected_gradient,) = torch.autograd.grad(expected, W_dec)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-8)
    assert got.requested == len(got) == d_sae
    assert len(got.distinct()[0]) < d_sae  # some features choose each other


def test_ortsae_lists_each_feature_with_its_nearest() -> None:
    W_dec = decoder(200, 6, seed=3)
    rows = F.normalize(W_dec.double(), dim=1)
    cosine = rows @ rows.T - 2 * torch.eye(200, dtype=torch.float64)
    got = nearest(W_dec)
    listed = sorted(zip(got.i.tolist(), got.j.tolist(), strict=True))
    expected = enumerate(cosine.argmax(1).tolist())
    assert listed == sorted((min(pair), max(pair)) for pair in expected)
    assert torch.equal(got.score, cosine[got.i, got.j].float())
    assert (got.score.diff() <= 0).all()


def test_tiles_and_their_size_change_nothing() -> None:
    W_dec = decoder(900, 40)
    small, large = nearest(W_dec, budget=SMALLEST), nearest(W_dec, budget=2**28)
    assert (small.blocks, large.blocks) == (36, 1)
    assert small.largest_block == 128**2
    for name in ("i", "j", "score"):
        assert torch.equal(getattr(small, name), getattr(large, name))


def test_equal_rows_go_to_the_smaller_partner_and_zero_rows_have_none() -> None:
    W_dec = decoder(50, 7, seed=5)
    W_dec[[11, 30, 41]] = W_dec[4].clone()
    W_dec[20] = 0
    got = nearest(W_dec)
    pairs = list(zip(got.i.tolist(), got.j.tolist(), strict=True))
    assert pairs[:4] == [(4, 11), (4, 11), (4, 30), (4, 41)]
    assert len(got) == 49
    assert 20 not in got.i.tolist() + got.j.tolist()
    assert len(got.distinct()[0]) == len(set(pairs))
    assert len(nearest(torch.zeros(9, 3))) == 0


def test_features_that_overlap_with_nothing_have_no_pair() -> None:
    assert len(nearest(torch.eye(6))) == 0
    assert len(nearest(-torch.ones(2, 2) + 2 * torch.eye(2))) == 0  # cosine -1


def test_chunks_are_fresh_every_step_and_the_same_from_the_same_seed(monkeypatch) -> None:
    monkeypatch.setattr(ortsae, "CHUNK", 50)
    W_dec = decoder(200, 12)
    one, again, later = (nearest(W_dec, step=step) for step in (3, 3, 4))
    assert torch.equal(one.i, again.i)
    assert not torch.equal(one.i, later.i)
    assert not torch.equal(one.i, nearest(W_dec, step=3, seed=1).i)
    for chunk in ortsae.partition(203, seed=9):
        assert 40 <= len(chunk) <= 50


def test_ortsae_holds_no_square_of_the_features() -> None:
    select = PairSelector("ortsae", memory_budget=SMALLEST)
    selection, held = select.tracked(Codes.of(torch.zeros(1, 800)), W_dec=decoder(800, 16))
    assert len(selection) == 800
    assert sum(held.values()) < SMALLEST < 4 * 800**2


def sparse_codes(
    d_sae: int, *, batch: int = 512, per_row: float = 8.0, seed: int = 0, firing: float = 1.0
) -> Codes:
    """Features whose rates fall by powers; the last share of them is silent."""
    generator = torch.Generator().manual_seed(seed)
    n = round(firing * d_sae)
    rate = torch.arange(1, n + 1) ** -0.5
    rate = (rate * per_row / rate.sum()).clamp(max=0.5)
    count = torch.poisson(rate * batch, generator=generator).long().clamp(max=batch)
    col = torch.repeat_interleave(torch.arange(n), count)
    row = torch.randint(batch, (len(col),), generator=generator)
    place = torch.unique(row * d_sae + col)
    value = torch.rand(len(place), generator=generator) + 0.1
    return Codes.from_entries(place // d_sae, place % d_sae, value, batch=batch, d_sae=d_sae)


def keys(selection, d_sae: int) -> set[int]:
    return set((selection.i * d_sae + selection.j).tolist())


@pytest.mark.parametrize("step", [0, 1])
def test_matched_pairs_keep_rates_and_are_none_of_the_chosen(step) -> None:
    d_sae = 2048
    codes = sparse_codes(d_sae, firing=0.8)
    counts = codes.counts()
    chosen = PairSelector("row-coactivation", per_feature=1)(codes)
    got = PairSelector("rate-matched-random", per_feature=1)(codes, step=step)
    assert len(got) == len(chosen) == len(keys(got, d_sae)) == d_sae  # distinct
    assert (got.i < got.j).all()
    assert torch.equal(got.score, chosen.score)
    assert (counts[got.i] > 0).all()
    assert (counts[got.j] > 0).all()
    assert not keys(got, d_sae) & keys(chosen, d_sae)
    group = group_of(counts)
    of_ends = [group[torch.cat([s.i, s.j])].sort().values for s in (got, chosen)]
    assert (of_ends[0] != of_ends[1]).float().mean() < 0.1


def test_where_the_selection_is_dense_other_pairs_are_found_in_larger_groups() -> None:
    """120 pairs of 16 features are all there are in their group; none of them may come back."""
    i, j = torch.triu_indices(16, 16, offset=1)
    chosen = PairSelection(i, j, torch.ones(120), 120, 120, 0, "rust")
    counts = torch.arange(400, 0, -1)
    got = matched_pairs(chosen, counts, seed=5)
    found = keys(got, 400)
    assert len(found) == 120
    assert not found & keys(chosen, 400)
    assert max(counts[got.i].min(), counts[got.j].min()) > 400 - 16 * matched.GROWTH[-1]


def test_where_there_is_no_other_pair_the_chosen_ones_stay() -> None:
    i, j = torch.triu_indices(5, 5, offset=1)
    chosen = PairSelection(i, j, torch.ones(10), 10, 10, 0, "rust")
    got = matched_pairs(chosen, torch.tensor([9, 8, 7, 6, 5, 0, 0]), seed=5)
    assert keys(got, 7) == keys(chosen, 7)


def group_of(counts: torch.Tensor) -> torch.Tensor:
    """`[d_sae]`: the group of each feature, -1 for silent ones."""
    order = counts.argsort(descending=True, stable=True)
    out = torch.full_like(counts, -1)
    for number, (start, stop) in enumerate(groups(counts[order][counts[order] > 0].tolist())):
        out[order[start:stop]] = number
    return out


def test_groups_are_of_like_rates_and_large_enough() -> None:
    counts = sparse_codes(4096).counts()
    counts = counts[counts > 0].sort(descending=True).values.tolist()
    spans = groups(counts)
    assert [stop for _, stop in spans[:-1]] == [start for start, _ in spans[1:]]
    assert (spans[0][0], spans[-1][1]) == (0, len(counts))
    for start, stop in spans[:-1]:
        assert stop - start >= LEAST_GROUP
        like = int(counts[start]) <= RATE_RATIO * int(counts[stop - 1])
        assert like or stop - start == LEAST_GROUP
    assert groups(counts[:0]) == []
    assert groups(counts[:5]) == [(0, 5)]


def test_silent_features_keep_their_place() -> None:
    counts = torch.tensor([0, 5, 6, 0, 5, 7, 0] * 9)
    permuted = Permutations(counts, seed=4)
    onto = permuted.draw()
    silent = counts == 0
    assert torch.equal(onto[silent], torch.arange(len(counts))[silent])
    assert (counts[onto[~silent]] > 0).all()
    assert torch.equal(onto.sort().values, torch.arange(len(counts)))
    assert not torch.equal(onto, permuted.draw())
    assert torch.equal(onto, Permutations(counts, seed=4).draw())


def test_matched_pairs_are_the_same_on_any_number_of_threads() -> None:
    codes = sparse_codes(1500)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            found.append(PairSelector("rate-matched-random", seed=3)(codes, step=2))
        finally:
            torch.set_num_threads(1)
    for name in ("i", "j", "score"):
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))


def test_matched_pairs_of_an_empty_selection() -> None:
    assert len(PairSelector("rate-matched-random")(torch.zeros(4, 30))) == 0


def test_matching_takes_milliseconds_at_full_width() -> None:
    codes = sparse_codes(16_384, batch=1024, per_row=32)
    chosen, counts = PairSelector("coactivation")(codes), codes.counts()
    started = time.perf_counter()
    got = matched_pairs(chosen, counts, seed=0)
    assert time.perf_counter() - started < 1
    assert len(keys(got, 16_384)) == len(chosen) == 40_960
    assert not keys(got, 16_384) & keys(chosen, 16_384)
    assert matched.LEAST_GROUP == 16


def test_given_pairs_are_those_of_the_list_whatever_the_codes():
    select = PairSelector("given", given=[9, 3, 5, 7, 3, 9])
    for acts in (torch.zeros(2, 12), torch.rand(4, 12)):
        pairs = select(acts)
        assert pairs.i.tolist() == [3, 5] and pairs.j.tolist() == [9, 7]
        assert pairs.score.tolist() == [1, 1] and len(pairs) == pairs.positive == 2


@pytest.mark.parametrize("given", [(), (3,), (3, 5, 7)])
def test_a_list_that_is_no_list_of_pairs_is_refused(given):
    with pytest.raises(ValueError, match="two for each pair were expected"):
        PairSelector("given", given=given)


def test_given_pairs_of_another_sae_are_refused():
    with pytest.raises(ValueError, match=r"the pair \[2, 12\] was given, but there are only 12"):
        PairSelector("given", given=(12, 2))(torch.zeros(1, 12))
