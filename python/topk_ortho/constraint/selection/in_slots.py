"""Pairs that fire together, on a GPU in torch alone, without asking how many of anything there are.

All products of a batch are laid out, as many as its codes are known to have, sorted by pair, and
added up. Sums are integers in two words, scaled by the pair's largest product, so that they do not
depend on the order in which a GPU adds; one rounding to float64 follows. Memory is
`BYTES_PER_PRODUCT` for every product; what does not fit the budget goes through `coactive.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.constraint.criteria.criterion import Score
from topk_ortho.constraint.selection.selection import NOT_FINITE, WHOLE
from topk_ortho.constraint.slots import Slots
from topk_ortho.sparse.codes import Codes

BYTES_PER_PRODUCT = 96  # measured peak
SUM_BITS = 61  # of a sum in the first word
LOW_BITS = 40  # of a product below the first word's last bit in the second
LEAST_EXPONENT = -900  # scales stay in the range of float64
HALF_RANGE = 2**31
WIDEST, WIDEST_SHIFTED = 46_340, 65_536  # d_sae whose pairs have keys of 31 and of 32 bits


def best_pairs(
    codes: Codes, value: Tensor, k: int, *, products: int, score: Score, support: int | None
) -> tuple[Slots, Tensor]:
    """Returns the best pairs, best first, and `[3]` counts (`SlotSelection.counts`).

    Args:
        codes: the batch, with at least one product.
        value: `[nnz]` what is multiplied, 0 on silent entries.
        k: pairs wanted.
        products: `codes.products`.
        score: from sums to scores.
        support: rows that the rarer feature of a pair has to fire on; None for any.
    """
    i, j, sums = _sums(codes, value, products)
    scores = score(i, j, sums)
    together = sums > 0
    unsupported = sums.new_zeros((), dtype=torch.int64)
    if support is not None:
        counts = codes.counts()
        supported = torch.minimum(counts[i], counts[j]) >= support
        unsupported = (together & ~supported).sum()
        together &= supported
    scores = torch.where(together, scores, 0.0).float()
    positive = (scores > 0).sum()
    outcome = torch.where(torch.isfinite(scores).all(), WHOLE, NOT_FINITE)
    at, best = _largest(scores, min(k, products))
    return Slots(i[at], j[at], best), torch.stack([positive, unsupported, outcome])


def _sums(codes: Codes, value: Tensor, products: int) -> tuple[Tensor, Tensor, Tensor]:
    """`(i, j, Σ_b v_bi v_bj)` `[products]`: pairs in order, then entries with the sum 0."""
    entry = torch.arange(codes.nnz, device=codes.device)
    partners = codes.crow[codes.row + 1] - entry - 1
    left = torch.repeat_interleave(entry, partners, output_size=products)
    start = partners.cumsum(0) - partners - entry - 1
    right = torch.arange(products, device=codes.device) - start[left]
    value = value.double()
    key, offset = _keys(codes.col[left], codes.col[right], codes.d_sae)
    product = value[left] * value[right]
    del left, right
    key, order = key.sort()
    product = product[order]
    del order
    new = torch.ones_like(key, dtype=torch.bool)
    torch.ne(key[1:], key[:-1], out=new[1:])
    pair = new.cumsum(0) - 1
    key = torch.full_like(key, -offset).scatter_(0, pair, key)
    sums = _added(product, pair, codes.batch)
    key = key.long() + offset
    i = torch.div(key, codes.d_sae, rounding_mode="floor")
    return i, key - i * codes.d_sae, sums


def _keys(i: Tensor, j: Tensor, d_sae: int) -> tuple[Tensor, int]:
    """Keys that rise with (i, j), in 32 bits where they fit, and what was taken off them."""
    key = i * d_sae + j
    if d_sae <= WIDEST:
        return key.int(), 0
    if d_sae <= WIDEST_SHIFTED:
        return key.sub_(HALF_RANGE).int(), HALF_RANGE
    return key, 0


def _added(product: Tensor, pair: Tensor, batch: int) -> Tensor:
    """`[products]` float64 sums of at most `batch` products each, by `pair`.

    Exact but for the last rounding, and for what is below 2^-70 of the pair's largest product.
    """
    largest = torch.zeros_like(product).scatter_reduce_(0, pair, product, "amax")
    exponent = torch.frexp(largest).exponent.clamp_(min=LEAST_EXPONENT)
    scale = torch.exp2((SUM_BITS - batch.bit_length() - exponent).double())
    product = product * scale[pair]
    high = product.long()
    low = product.sub_(high).mul_(2.0**LOW_BITS).long()
    del product
    high, low = (torch.zeros_like(pair).index_add_(0, pair, word) for word in (high, low))
    return (high.double() + low.double() * 2.0**-LOW_BITS) / scale


def _largest(score: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`(place, score)` `[k]` of the largest scores above 0; ties to the smaller place.

    Where fewer are above 0, the rest have the score 0.
    """
    kth = score.topk(k, sorted=False).values.amin()
    above = score > kth
    tied = (score == kth) & (kth > 0)
    taken = above | (tied & (tied.cumsum(0) <= k - above.sum()))
    place = torch.nonzero_static(taken, size=k, fill_value=0).squeeze(1)
    held = torch.arange(k, device=score.device) < taken.sum()
    best, order = torch.where(held, score[place], 0.0).sort(descending=True, stable=True)
    return place[order], best
