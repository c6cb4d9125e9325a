"""Triton kernels of the selection: entries by owner, sums of pairs, and the k best of them.

The rarer feature of a pair owns it, so that a feature that fires on every row owns little. Features
are labelled by how often they fire, the most frequent first: the owner has the larger label. Sums
are 64-bit integers scaled for their owner, which have no order; no kernel waits for the host, and
their grids do not depend on the data.

`plan` is what one round of adding up leaves for the next: whether to run, the shift of a bin, the
threshold's bits, the bin of the k-th best, pairs above it, and whether the k best are found.
"""

from __future__ import annotations

import triton
import triton.language as tl

BINS = tl.constexpr(8192)
COARSE = tl.constexpr(18)  # bins of 2^18 float32 values reach from 0 to the largest
WARM = tl.constexpr(8)  # bins of 2^8 reach 25 % above the threshold; the last one is open
GO, SHIFT, LOW, PLACE, HIGHER, FOUND = (tl.constexpr(at) for at in range(6))
INFINITE = tl.constexpr(0x7F800000)
UNLABELLED = tl.constexpr(1 << 30)


@triton.jit
def row_stats(crow, col, value, count, most, T: tl.constexpr):
    """Adds up how often each feature fires; keeps its largest product with its row's maximum."""
    b = tl.program_id(0)
    lo = tl.load(crow + b).to(tl.int32)
    hi = tl.load(crow + b + 1).to(tl.int32)
    largest = tl.zeros((), tl.float64)
    for at in range(lo, hi, T):
        q = at + tl.arange(0, T)
        v = tl.load(value + q, mask=q < hi, other=0.0).to(tl.float64)
        largest = tl.maximum(largest, tl.max(v))
    for at in range(lo, hi, T):
        q = at + tl.arange(0, T)
        v = tl.load(value + q, mask=q < hi, other=0.0).to(tl.float64)
        c = tl.load(col + q, mask=q < hi, other=0)
        on = (q < hi) & (v > 0)
        tl.atomic_add(count + c, tl.full((T,), 1, tl.int32), mask=on, sem="relaxed")
        bits = (v * largest).to(tl.int64, bitcast=True)  # of numbers above 0, in their order
        tl.atomic_max(most + c, bits, mask=on, sem="relaxed")


@triton.jit
def _row_keys(col, value, label_of, q, lo, hi):
    v = tl.load(value + q, mask=q < hi, other=0.0)
    c = tl.load(col + q, mask=q < hi, other=0)
    on = (q < hi) & (v > 0)
    label = tl.load(label_of + c, mask=on, other=0).to(tl.int32)
    return tl.where(on, label, UNLABELLED + (q - lo)), v, on


@triton.jit
def relabel_rows(crow, col, value, label_of, labels, values, T: tl.constexpr):
    """Writes each row again by label, the most frequent first; silent entries last, as -1."""
    b = tl.program_id(0)
    lo = tl.load(crow + b).to(tl.int32)
    hi = tl.load(crow + b + 1).to(tl.int32)
    for a in range(lo, hi, T):
        q = a + tl.arange(0, T)
        key, v, on = _row_keys(col, value, label_of, q, lo, hi)
        rank = tl.zeros((T,), tl.int32)
        for o in range(lo, hi, T):
            p = o + tl.arange(0, T)
            other, _, _ = _row_keys(col, value, label_of, p, lo, hi)
            smaller = (other[None, :] < key[:, None]) & (p < hi)[None, :]
            rank += tl.sum(smaller.to(tl.int32), 1)
        tl.store(labels + lo + rank, tl.where(on, key, -1), mask=q < hi)
        tl.store(values + lo + rank, tl.where(on, v, 0.0), mask=q < hi)


@triton.jit
def scatter_columns(crow, labels, cursor, first, last, T: tl.constexpr):
    """Writes entries by owner: where its partners begin, and where it lies itself, behind them."""
    b = tl.program_id(0)
    lo = tl.load(crow + b).to(tl.int32)
    hi = tl.load(crow + b + 1).to(tl.int32)
    for a in range(lo, hi, T):
        q = a + tl.arange(0, T)
        r = tl.load(labels + q, mask=q < hi, other=-1)
        at = tl.atomic_add(cursor + r, tl.full((T,), 1, tl.int32), mask=r >= 0, sem="relaxed")
        tl.store(first + at, tl.zeros((T,), tl.int32) + lo, mask=r >= 0)
        tl.store(last + at, q, mask=r >= 0)


@triton.jit
def _scales(r, feature_of, count, most):
    """The power of two that brings owner r's sums below 2^61, its inverse, and its count."""
    feature = tl.load(feature_of + r)
    n = tl.load(count + feature)
    largest = tl.load(most + feature).to(tl.float64, bitcast=True)
    bound = (largest * n.to(tl.float64)).to(tl.int64, bitcast=True)
    exponent = tl.maximum((bound >> 52) - 1022, -900)
    # Bits of 2^(61 - exponent) and of its inverse, as float64: its bias is 1023.
    up = ((1084 - exponent) << 52).to(tl.float64, bitcast=True)
    down = ((962 + exponent) << 52).to(tl.float64, bitcast=True)
    return up, down, n


@triton.jit
def _score(total, down, r, j, held, feature_of, by, mean, n,
           SCORE: tl.constexpr, MEAN: tl.constexpr):  # fmt: skip
    """Bits of the float32 score of sums `total`: the sum itself, or the quotient of two features'
    numbers (`Quotient`): SCORE 1 over their product, 2 over the smaller."""
    sums = total.to(tl.float64) * down
    if SCORE > 0:
        a = tl.load(feature_of + r)
        b = tl.load(feature_of + j, mask=held, other=0)
        by_a = tl.load(by + a)
        by_b = tl.load(by + b, mask=held, other=1.0)
        if MEAN:
            sums = sums / n.to(tl.float64)
            sums = sums - tl.load(mean + a) * tl.load(mean + b, mask=held, other=0.0)
        sums = sums / (by_a * by_b if SCORE == 1 else tl.minimum(by_a, by_b))
    score = tl.where(held & (sums > 0), sums, 0.0).to(tl.float32)
    return score.to(tl.int32, bitcast=True)


@triton.jit
def _append(bits, hit, r, j, slot, free, out_bits, out_r, out_j, n_out, cap, hist, low, shift,
            CHUNK: tl.constexpr):  # fmt: skip
    """Writes the hits of a tile behind what this program wrote before, in chunks of slots."""
    flag = tl.ravel(hit.to(tl.int32))
    n = tl.sum(flag)
    if n > 0:
        if n > free:
            _clear(out_bits, slot, free, cap, CHUNK)
            slot = tl.atomic_add(n_out, CHUNK, sem="relaxed")
            free = tl.full((), CHUNK, tl.int32)
        at = slot + tl.cumsum(flag, 0) - flag
        ok = (flag != 0) & (at < cap)
        b = tl.ravel(bits)
        tl.store(out_bits + at, b, mask=ok)
        tl.store(out_r + at, tl.zeros_like(b) + r, mask=ok)
        tl.store(out_j + at, tl.ravel(j), mask=ok)
        bin_ = tl.minimum((b - low) >> shift, BINS - 1)
        tl.atomic_add(hist + bin_, flag, mask=flag != 0, sem="relaxed")
        slot += n
        free -= n
    return slot, free


@triton.jit
def _clear(out_bits, slot, free, cap, CHUNK: tl.constexpr):
    """Marks the slots of a chunk that no pair was written to."""
    q = tl.arange(0, CHUNK)
    tl.store(out_bits + slot + q, tl.zeros((CHUNK,), tl.int32), mask=(q < free) & (slot + q < cap))


@triton.jit
def begin(plan, warm, n_out, counts):
    """Starts at 97 % of the last k-th best score, or by coarse bins where there was none."""
    last = tl.load(warm).to(tl.float32, bitcast=True)
    low = (last * 0.97).to(tl.int32, bitcast=True)
    tl.store(plan + GO, 1)
    tl.store(plan + SHIFT, tl.where(low > 0, WARM, COARSE))
    tl.store(plan + LOW, low)
    tl.store(plan + FOUND, 0)
    tl.store(n_out, 0)
    tl.store(counts, tl.zeros((), tl.int64))
    tl.store(counts + 1, tl.zeros((), tl.int64))


@triton.jit
def _add_up(mine, up, lo, hi, first, last, labels, values, E: tl.constexpr, P: tl.constexpr):
    """Adds the products of one owner's entries with their partners to its scratch row."""
    for e0 in range(lo, hi, E):
        e = e0 + tl.arange(0, E)
        p0 = tl.load(first + e, mask=e < hi, other=0)
        p1 = tl.load(last + e, mask=e < hi, other=0)
        w = tl.load(values + p1, mask=e < hi, other=0.0).to(tl.float64)
        for c in range(0, tl.max(p1 - p0), P):
            at = p0[:, None] + (c + tl.arange(0, P))[None, :]
            held = at < p1[:, None]
            j = tl.load(labels + at, mask=held, other=0)
            x = tl.load(values + at, mask=held, other=0.0).to(tl.float64)
            product = (w[:, None] * x * up).to(tl.int64)
            tl.atomic_add(mine + j, product, mask=held, sem="relaxed", scope="cta")


@triton.jit(do_not_specialize=["n"])
def accumulate(plan, feature_of, count, most, end, first, last, labels, values, scratch, width,
               d_sae, hubs, support, by, mean, n, out_bits, out_r, out_j, n_out, cap, hist, counts,
               E: tl.constexpr, P: tl.constexpr, CHUNK: tl.constexpr,
               SCORE: tl.constexpr, MEAN: tl.constexpr):  # fmt: skip
    """One owner at a time: adds up its pairs in a scratch row of this program, and empties it.

    The second walk over the same products takes each sum with an exchange: the first to come gets
    it, the others get 0. Clearing costs what adding costs, whatever the number of features.
    """
    if tl.load(plan + GO) == 0:
        return
    mine = scratch + tl.program_id(0).to(tl.int64) * width
    shift = tl.load(plan + SHIFT)
    low = tl.load(plan + LOW)
    slot = tl.full((), 0, tl.int32)
    free = tl.full((), 0, tl.int32)
    positive = tl.full((), 0, tl.int32)
    unsupported = tl.full((), 0, tl.int32)
    r = hubs + tl.program_id(0)
    while r < d_sae:
        up, down, fires = _scales(r, feature_of, count, most)
        hi = tl.load(end + r)
        lo = hi - fires
        _add_up(mine, up, lo, hi, first, last, labels, values, E, P)
        tl.debug_barrier()
        for e0 in range(lo, hi, E):
            e = e0 + tl.arange(0, E)
            p0 = tl.load(first + e, mask=e < hi, other=0)
            p1 = tl.load(last + e, mask=e < hi, other=0)
            for c in range(0, tl.max(p1 - p0), P):
                at = p0[:, None] + (c + tl.arange(0, P))[None, :]
                held = at < p1[:, None]
                j = tl.load(labels + at, mask=held, other=0)
                empty = tl.zeros((E, P), tl.int64)
                total = tl.atomic_xchg(mine + j, empty, mask=held, sem="relaxed", scope="cta")
                held = held & (total > 0)
                if fires < support:
                    unsupported += tl.sum(held.to(tl.int32))
                else:
                    bits = _score(total, down, r, j, held, feature_of, by, mean, n, SCORE, MEAN)
                    positive += tl.sum((bits > 0).to(tl.int32))
                    slot, free = _append(bits, (bits > 0) & (bits >= low), r, j, slot, free,
                                         out_bits, out_r, out_j, n_out, cap, hist, low, shift,
                                         CHUNK)  # fmt: skip
        tl.debug_barrier()
        r = tl.where(fires > 0, r + tl.num_programs(0), d_sae)  # the rest never fire
    _clear(out_bits, slot, free, cap, CHUNK)
    tl.atomic_add(counts, positive.to(tl.int64), sem="relaxed")
    tl.atomic_add(counts + 1, unsupported.to(tl.int64), sem="relaxed")


@triton.jit
def hub_pairs(crow, labels, values, feature_of, count, most, hubs, cells,
              A: tl.constexpr, T: tl.constexpr):  # fmt: skip
    """Adds all pairs of one row's hubs, its first entries, to `cells` `[hubs, hubs]`."""
    b = tl.program_id(0)
    lo = tl.load(crow + b).to(tl.int32)
    hi = tl.load(crow + b + 1).to(tl.int32)
    n = tl.zeros((), tl.int32)
    for o in range(lo, hi, T):
        q = o + tl.arange(0, T)
        r = tl.load(labels + q, mask=q < hi, other=-1)
        n += tl.sum(((r >= 0) & (r < hubs)).to(tl.int32))
    for a0 in range(0, n, A):
        a = a0 + tl.arange(0, A)
        ra = tl.load(labels + lo + a, mask=a < n, other=0)
        up, _, _ = _scales(ra, feature_of, count, most)
        va = tl.load(values + lo + a, mask=a < n, other=0.0).to(tl.float64)
        for o in range(0, n, T):
            q = o + tl.arange(0, T)
            r = tl.load(labels + lo + q, mask=q < n, other=0)
            v = tl.load(values + lo + q, mask=q < n, other=0.0).to(tl.float64)
            pair = (a < n)[:, None] & (q[None, :] < a[:, None])
            product = (va[:, None] * v[None, :] * up[:, None]).to(tl.int64)
            cell = cells + ra[:, None] * hubs + r[None, :]
            tl.atomic_add(cell, product, mask=pair, sem="relaxed")


@triton.jit(do_not_specialize=["n"])
def sweep_hubs(plan, cells, feature_of, count, most, hubs, support, by, mean, n, out_bits, out_r,
               out_j, n_out, cap, hist, counts, H: tl.constexpr, CHUNK: tl.constexpr,
               SCORE: tl.constexpr, MEAN: tl.constexpr):  # fmt: skip
    """Offers the pairs among the hubs that one of them owns."""
    if tl.load(plan + GO) == 0:
        return
    shift = tl.load(plan + SHIFT)
    low = tl.load(plan + LOW)
    a = tl.program_id(0)
    q = tl.arange(0, H)
    _, down, fires = _scales(a, feature_of, count, most)
    total = tl.load(cells + a * hubs + q, mask=q < a, other=0)
    held = total > 0
    if fires < support:
        tl.atomic_add(counts + 1, tl.sum(held.to(tl.int64)), sem="relaxed")
    else:
        bits = _score(total, down, a, q, held, feature_of, by, mean, n, SCORE, MEAN)
        tl.atomic_add(counts, tl.sum((bits > 0).to(tl.int64)), sem="relaxed")
        slot, free = _append(bits, (bits > 0) & (bits >= low), a, q, tl.full((), 0, tl.int32),
                             tl.full((), 0, tl.int32), out_bits, out_r, out_j, n_out, cap, hist,
                             low, shift, CHUNK)  # fmt: skip
        _clear(out_bits, slot, free, cap, CHUNK)


@triton.jit
def judge(plan, hist, n_out, counts, k, cap, B: tl.constexpr):
    """Finds the bin of the k-th best, empties the bins, and says what the next round has to do.

    Nothing, once all of the k best are held. Otherwise: too few above the threshold, so that
    coarse bins over all scores find another one; or too many, so that it is the k-th best's bin.
    """
    if tl.load(plan + GO) == 0:
        return
    q = tl.arange(0, B)
    survivors = tl.full((), 0, tl.int32)
    place = tl.full((), -1, tl.int32)
    higher = tl.full((), 0, tl.int32)
    for i in range(BINS // B):
        c = BINS // B - 1 - i
        h = tl.load(hist + c * B + q)
        tl.store(hist + c * B + q, tl.zeros((B,), tl.int32))
        total = tl.sum(h)
        reached = survivors + total - tl.cumsum(h, 0) + h >= k  # by this bin and higher ones
        best = tl.max(tl.where(reached, q, -1))
        if (place < 0) & (best >= 0):
            place = c * B + best
            higher = survivors + tl.sum(tl.where(q > best, h, 0))
        survivors += total
    shift = tl.load(plan + SHIFT)
    low = tl.load(plan + LOW)
    fits = tl.load(n_out) <= cap
    done = fits & (((survivors >= k) & (shift < COARSE)) | ((survivors < k) & (low == 0)))
    again = (done == 0) & ((place < 0) | (shift > 0))
    coarse = (place < 0) | ((place == BINS - 1) & (shift < COARSE))
    tl.store(plan + FOUND, done.to(tl.int32))
    tl.store(plan + GO, again.to(tl.int32))
    tl.store(plan + PLACE, place)
    tl.store(plan + HIGHER, higher)
    if again:
        tl.store(plan + LOW, tl.where(coarse, 0, low + (place << shift)))
        tl.store(plan + SHIFT, tl.where(coarse, COARSE, tl.maximum(shift - 13, 0)))
        tl.store(n_out, 0)
        tl.store(counts, tl.zeros((), tl.int64))
        tl.store(counts + 1, tl.zeros((), tl.int64))


@triton.jit
def take(plan, warm, counts, bits, r, j, n_out, cap, feature_of, n_taken, n_ties, sel_bits, sel_i,
         sel_j, tie_bits, tie_i, tie_j, k, B: tl.constexpr):  # fmt: skip
    """Selects what lies above the k-th best's bin; what lies in it goes to the list of ties."""
    found = tl.load(plan + FOUND)
    place = tl.load(plan + PLACE)
    low = tl.load(plan + LOW)
    shift = tl.load(plan + SHIFT)
    if tl.program_id(0) == 0:
        tl.atomic_max(counts + 2, tl.where(found == 0, 1, 0).to(tl.int64), sem="relaxed")
        kth = tl.where((found == 1) & (place >= 0), low + (place << shift), 0)
        tl.store(warm, kth)
    at = tl.program_id(0) * B + tl.arange(0, B)
    held = at < tl.where(found == 1, tl.minimum(tl.load(n_out), cap), 0)
    x = tl.load(bits + at, mask=held, other=0)
    held = held & (x > 0)
    if tl.max(x) >= INFINITE:
        tl.atomic_max(counts + 2, tl.full((), 2, tl.int64), sem="relaxed")
    bin_ = tl.minimum((x - low) >> shift, BINS - 1)
    a = tl.load(feature_of + tl.load(r + at, mask=held, other=0), mask=held, other=0).to(tl.int32)
    b = tl.load(feature_of + tl.load(j + at, mask=held, other=0), mask=held, other=0).to(tl.int32)
    win = (held & (bin_ > place)).to(tl.int32)
    to = tl.atomic_add(n_taken, tl.sum(win), sem="relaxed") + tl.cumsum(win, 0) - win
    ok = (win != 0) & (to < k)
    tl.store(sel_bits + to, x, mask=ok)
    tl.store(sel_i + to, tl.minimum(a, b), mask=ok)
    tl.store(sel_j + to, tl.maximum(a, b), mask=ok)
    tie = (held & (bin_ == place)).to(tl.int32)
    to = tl.atomic_add(n_ties, tl.sum(tie), sem="relaxed") + tl.cumsum(tie, 0) - tie
    tl.store(tie_bits + to, x, mask=tie != 0)
    tl.store(tie_i + to, tl.minimum(a, b), mask=tie != 0)
    tl.store(tie_j + to, tl.maximum(a, b), mask=tie != 0)


@triton.jit
def pick_ties(plan, n_ties, tie_bits, tie_i, tie_j, sel_bits, sel_i, sel_j, k, B: tl.constexpr):
    """Selects the best of the k-th best's bin by (score, i, j): each counts how many are better."""
    n = tl.load(n_ties)
    higher = tl.load(plan + HIGHER)
    for a0 in range(tl.program_id(0) * B, n, tl.num_programs(0) * B):
        at = a0 + tl.arange(0, B)
        x = tl.load(tie_bits + at, mask=at < n, other=0)
        i = tl.load(tie_i + at, mask=at < n, other=0)
        j = tl.load(tie_j + at, mask=at < n, other=0)
        pair = (i.to(tl.int64) << 32) | j.to(tl.int64)
        rank = tl.zeros((B,), tl.int32)
        for o in range(0, n, B):
            q = o + tl.arange(0, B)
            y = tl.load(tie_bits + q, mask=q < n, other=0)
            yi = tl.load(tie_i + q, mask=q < n, other=0)
            yj = tl.load(tie_j + q, mask=q < n, other=0)
            other = (yi.to(tl.int64) << 32) | yj.to(tl.int64)
            better = (y[None, :] > x[:, None]) | (
                (y[None, :] == x[:, None]) & (other[None, :] < pair[:, None])
            )
            rank += tl.sum((better & (q < n)[None, :]).to(tl.int32), 1)
        to = higher + rank
        ok = (at < n) & (to < k)
        tl.store(sel_bits + to, x, mask=ok)
        tl.store(sel_i + to, i, mask=ok)
        tl.store(sel_j + to, j, mask=ok)
