"""Triton kernels of the penalty: pairs grouped by the row that moves, and one pass over the rows.

A program owns a row that moves. The row, its gradient and its norm stay in registers while the rows
that it overlaps with pass by, so that each is read once and nothing of shape `[k, d_in]` exists. No
floating-point atomics: the bits do not depend on the schedule. Where both rows of a pair move, a
frequent feature has pairs by the thousand: its group is cut, and the parts are added up in order.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _child(i, j, rate, at, held):
    """Which row of each pair moves: the rarer feature's, at equal rates the larger index."""
    a = tl.load(i + at, mask=held, other=0).to(tl.int32)
    b = tl.load(j + at, mask=held, other=0).to(tl.int32)
    rarer = tl.load(rate + a, mask=held, other=0.0) < tl.load(rate + b, mask=held, other=0.0)
    return tl.where(rarer, a, b), tl.where(rarer, b, a)


@triton.jit
def count_children(i, j, score, rate, k, counts, B: tl.constexpr):
    """Counts the pairs of each row that moves; slots of score 0 are empty."""
    at = tl.program_id(0) * B + tl.arange(0, B)
    held = tl.load(score + at, mask=at < k, other=0.0) > 0
    child, _ = _child(i, j, rate, at, held)
    tl.atomic_add(counts + child, tl.full((B,), 1, tl.int32), mask=held, sem="relaxed")


@triton.jit
def scatter_children(i, j, score, rate, k, cursor, pair, parent, B: tl.constexpr):
    """Writes the number of each pair, and its other row, to the group of the row that moves."""
    at = tl.program_id(0) * B + tl.arange(0, B)
    held = tl.load(score + at, mask=at < k, other=0.0) > 0
    child, other = _child(i, j, rate, at, held)
    to = tl.atomic_add(cursor + child, tl.full((B,), 1, tl.int32), mask=held, sem="relaxed")
    tl.store(pair + to, at, mask=held)
    tl.store(parent + to, other, mask=held)


@triton.jit
def order_groups(end, counts, pair, parent, pair_out, parent_out, B: tl.constexpr):
    """Puts each group in the order of its other rows, since scattering has none."""
    c = tl.program_id(0)
    hi = tl.load(end + c)
    lo = hi - tl.load(counts + c)
    for a in range(lo, hi, B):
        at = a + tl.arange(0, B)
        p = tl.load(parent + at, mask=at < hi, other=0)
        rank = tl.zeros((B,), tl.int32)
        for o in range(lo, hi, B):
            q = o + tl.arange(0, B)
            y = tl.load(parent + q, mask=q < hi, other=0x7FFFFFFF)
            rank += tl.sum((y[None, :] < p[:, None]).to(tl.int32), 1)
        tl.store(parent_out + lo + rank, p, mask=at < hi)
        tl.store(pair_out + lo + rank, tl.load(pair + at, mask=at < hi, other=0), mask=at < hi)


@triton.jit
def _power(largest):
    """The power of two that brings numbers of at most `largest` near 1."""
    field = (largest.to(tl.int32, bitcast=True) >> 23) & 0xFF
    field = tl.minimum(tl.maximum(field, 1), 253)
    return ((254 - field) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _inverse(squares):
    return tl.where(squares == 0, 0.0, 1 / tl.sqrt(squares))


@triton.jit
def _rows(W, p, held, q, d):
    """Rows p near norm 1, and the inverses of their norms."""
    inside = held[:, None] & (q < d)[None, :]
    rows = tl.load(W + p[:, None] * d + q[None, :], mask=inside, other=0.0)
    rows = rows * _power(tl.max(tl.abs(rows), 1))[:, None]
    return rows, _inverse(tl.sum(rows * rows, 1))


@triton.jit
def pair_penalty(
    W, end, counts, pair, parent, row_of, tau, weight, out, loss, d,
    D: tl.constexpr, ROWS: tl.constexpr,
    BOTH: tl.constexpr, COSINE: tl.constexpr, CUT: tl.constexpr,
):  # fmt: skip
    """One row that moves: its share of the penalty, and its gradient as a row of `out`.

    With CUT one part of a group, whose row is found in `row_of`; each pair is in two groups. With
    COSINE only the cosines, which are written to `out` `[k]` by the number of the pair.
    """
    part = tl.program_id(0)
    hi = tl.load(end + part)
    lo = hi - tl.load(counts + part)
    c = tl.load(row_of + part) if CUT else part
    q = tl.arange(0, D)
    cost = tl.zeros((), tl.float32)
    if lo < hi:
        w = tl.load(W + c.to(tl.int64) * d + q, mask=q < d, other=0.0)
        power = _power(tl.max(tl.abs(w)))
        w = w * power
        inverse = _inverse(tl.sum(w * w))
        u = w * inverse
        gradient = tl.zeros((D,), tl.float32)
        along = tl.zeros((), tl.float32)
        for first in range(lo, hi, ROWS):
            at = first + tl.arange(0, ROWS)
            held = at < hi
            n = tl.load(pair + at, mask=held, other=0)
            p = tl.load(parent + at, mask=held, other=0).to(tl.int64)
            rows, r = _rows(W, p, held, q, d)
            cosine = tl.sum(rows * u[None, :], 1) * r
            if COSINE:
                if CUT:
                    held = held & (p >= c)  # once for each pair
                tl.store(out + n, cosine, mask=held)
            else:
                overlap = tl.abs(cosine) if BOTH else cosine
                t = tl.load(tau + n, mask=held, other=0.0)
                over = tl.where((overlap <= t) | (held == 0), 0.0, overlap - t)  # a NaN stays
                x = tl.load(weight + n, mask=held, other=0.0)
                cost += tl.sum(x * over * over)
                slope = 2 * x * over
                if BOTH:
                    slope = tl.where(cosine < 0, -slope, slope)
                gradient += tl.sum(rows * (slope * r)[:, None], 0)
                along += tl.sum(slope * cosine)
        if not COSINE:
            row = out + part.to(tl.int64) * d + q
            tl.store(row, (gradient - along * u) * inverse * power, mask=q < d)
    elif not COSINE:
        tl.store(out + part.to(tl.int64) * d + q, tl.zeros((D,), tl.float32), mask=q < d)
    if not COSINE:
        tl.store(loss + part, cost)


@triton.jit
def add_parts(out, end, counts, d_sae, d, D: tl.constexpr):
    """Adds the further parts of a row's gradient to the first, one after the other."""
    c = tl.program_id(0)
    hi = tl.load(end + c)
    lo = hi - tl.load(counts + c)
    if lo < hi:
        q = tl.arange(0, D)
        row = out + c.to(tl.int64) * d + q
        total = tl.load(row, mask=q < d, other=0.0)
        for part in range(lo, hi):
            at = out + (d_sae + part).to(tl.int64) * d + q
            total += tl.load(at, mask=q < d, other=0.0)
        tl.store(row, total, mask=q < d)
