"""Every function of the core with arguments that are fine, and numpy's answer to the same question.

`CALLS` is what the tests of this folder change one argument at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topk_ortho._core import (
    Coactivation,
    PairHistory,
    TopK,
    dense_entries,
    pair_cosines,
    pair_gradient,
    pair_penalty,
    row_norms,
    top_entries,
    top_products,
)

Array = NDArray[Any]
Answer = tuple[Any, ...]

N, WIDTH, K = 12, 7, 20


@dataclass(frozen=True)
class Call:
    """One function: `core(**arguments)` and `twin(**arguments)` answer with the same columns."""

    core: Callable[..., Answer]
    twin: Callable[..., Answer]
    arrays: dict[str, Array]
    numbers: dict[str, int]

    def arguments(self, **other: Any) -> dict[str, Any]:
        """Fresh copies of all arguments, some of them replaced."""
        return {k: v.copy() for k, v in self.arrays.items()} | self.numbers | other


def same(got: Answer, expected: Answer, *, overflow: bool = False) -> bool:
    """Whether the columns agree: what is finite nearly, and what is not in the same places.

    With `overflow` only what is finite is compared: numpy's answers here are float64.
    """
    return len(got) == len(expected) and all(
        _near(one, other, overflow) for one, other in zip(got, expected, strict=True)
    )


def _near(got: Any, expected: Any, overflow: bool) -> bool:
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape:
        return False
    finite = np.isfinite(got if overflow else expected)
    scale = np.abs(expected[finite]).max(initial=1.0)
    return bool(
        np.array_equal(np.isfinite(got), finite)
        and np.allclose(got[finite], expected[finite], rtol=1e-4, atol=1e-5 * scale)
    )


def best(i: Array, j: Array, score: Array, k: int) -> Answer:
    """The k best that are above 0, best first, ties to the smaller pair."""
    order = np.lexsort((j, i, -score))
    order = order[score[order] > 0][:k]
    return i[order], j[order], score[order]


def products(m: Array, k: int) -> Answer:
    i, j = np.triu_indices(len(m), 1)
    exact = m.astype(np.float64)
    return best(i, j, (exact[i] * exact[j]).astype(np.float32), k)


def entries(acts: Array) -> Answer:
    row, col = acts.nonzero()
    return _starts(row, len(acts)), row, col, acts[row, col]


def entries_of_top(activation: Array, feature: Array, d_sae: int) -> Answer:
    row, at = activation.nonzero()
    col = feature.reshape(activation.shape)[row, at]
    order = np.lexsort((col, row))
    return _starts(row, len(activation)), row, col[order], activation[row, at][order]


def _starts(row: Array, batch: int) -> Array:
    return np.concatenate([[0], np.bincount(row, minlength=batch).cumsum()])


def sums(crow: Array, col: Array, value: Array, d_sae: int) -> tuple[Array, Array, Array]:
    """(i, j, sum) of all pairs that fire together, in pair order."""
    total: dict[tuple[int, int], float] = {}
    for start, end in pairwise(crow.tolist()):
        for at in range(start, end):
            for other in range(at + 1, end):
                pair = int(col[at]), int(col[other])
                product = float(value[at]) * float(value[other])
                total[pair] = total.get(pair, 0.0) + product
    pairs = np.array(sorted(total), np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1], np.array([total[pair] for pair in sorted(total)])


def selected(crow: Array, col: Array, value: Array, d_sae: int, k: int) -> Answer:
    i, j, total = sums(crow, col, value, d_sae)
    score = total.astype(np.float32)
    return *best(i, j, score, k), int((score > 0).sum())


def selected_by_cosine(crow: Array, col: Array, value: Array, rows: Array, k: int) -> Answer:
    i, j, _ = sums(crow, col, value, len(rows))
    exact = rows.astype(np.float64)
    norm = np.sqrt((exact**2).sum(1))
    score = ((exact[i] * exact[j]).sum(1) / norm[i] / norm[j]).astype(np.float32)
    return *best(i, j, score, k), int((score > 0).sum())


def some_sums(crow: Array, col: Array, value: Array, d_sae: int, first: int, last: int) -> Answer:
    i, j, total = sums(crow, col, value, d_sae)
    asked = (first <= i) & (i < last)
    return i[asked], j[asked], total[asked]


def inverse(norms: Array) -> Array:
    return np.divide(1, norms, out=np.zeros(norms.shape), where=norms > 0)


def cosines(rows: Array, i: Array, j: Array, norms: Array) -> Answer:
    exact, scale = rows.astype(np.float64), inverse(norms)
    return ((exact[i] * exact[j]).sum(1) * scale[i] * scale[j],)


def gradient(
    rows: Array, i: Array, j: Array, slope: Array, moves_i: Array, moves_j: Array, norms: Array
) -> Answer:
    out, scale = np.zeros(rows.shape), inverse(norms)
    moved = np.zeros(len(rows), bool)
    for pair in np.flatnonzero(slope):
        for moves, moving, fixed in ((moves_i, i, j), (moves_j, j, i)):
            if moves[pair]:
                a, b = moving[pair], fixed[pair]
                out[a] += float(slope[pair]) * scale[b] * rows[b].astype(np.float64)
                moved[a] = True
    for row in np.flatnonzero(moved):
        unit = rows[row] * scale[row]
        out[row] = (out[row] - (out[row] @ unit) * unit) * scale[row]
    return (out,)


def penalty(
    rows: Array, i: Array, j: Array, tau: Array, weight: Array, i_is_child: Array, norms: Array
) -> Answer:
    (cosine,) = cosines(rows, i, j, norms)
    over = cosine - tau
    free = over <= 0  # whatever the weight
    slope, cost = np.where(free, 0, 2 * weight * over), np.where(free, 0, weight * over**2)
    moves = gradient(rows, i, j, slope, i_is_child, ~i_is_child, norms)
    return float(cost.sum()), *moves


def averages(step: int, i: Array, j: Array) -> Answer:
    """One observation: its pairs in their order, each with 1 - decay."""
    order = np.lexsort((j, i))
    return i[order], j[order], np.full(len(i), 0.5)


def observed(step: int, i: Array, j: Array) -> Answer:
    history = PairHistory(capacity=1000, decay=0.5)
    history.observe(step, i, j)
    return history.top(1000)[:3]


def streamed(i: Array, j: Array, score: Array, k: int) -> Answer:
    selector = TopK(k)
    selector.push(i, j, score)
    return selector.finish()


def looked_up(i: Array, j: Array) -> Answer:
    history = PairHistory(capacity=1000, decay=0.5)
    history.observe(0, LEFT, RIGHT)
    return (history.ema(i, j),)


def known(i: Array, j: Array) -> Answer:
    held = set(zip(LEFT.tolist(), RIGHT.tolist(), strict=True))
    pairs = zip(i.tolist(), j.tolist(), strict=True)
    return ([0.5 if pair in held else 0.0 for pair in pairs],)


RNG = np.random.default_rng(0)
_CHOSEN = RNG.permutation(N * (N - 1) // 2)[:K]
LEFT, RIGHT = (column[_CHOSEN].astype(np.int64) for column in np.triu_indices(N, 1))
SCORE = RNG.integers(1, 9, K).astype(np.float32)
PAIRS = {"i": LEFT, "j": RIGHT}
CROW = np.array([0, 4, 4, 9, 12], np.int64)
COL = np.array([0, 2, 3, 11, 1, 2, 3, 4, 5, 2, 3, 11], np.int64)
CODES = {"crow": CROW, "col": COL, "value": RNG.integers(1, 5, len(COL)).astype(np.float32)}
ROWS = RNG.normal(size=(N, WIDTH)).astype(np.float32)
NORMS = np.sqrt((ROWS**2).sum(1))
PRICED = {"rows": ROWS, **PAIRS}
FLAGS = RNG.random(K) < 0.5
TOP = np.array([[3, 0, 11], [2, 1, 0], [7, 8, 3], [5, 11, 4]], np.int64)

CALLS: dict[str, Call] = {
    "TopK": Call(streamed, best, {**PAIRS, "score": SCORE}, {"k": 9}),
    "top_products": Call(top_products, products, {"m": SCORE}, {"k": 9}),
    "dense_entries": Call(dense_entries, entries, {"acts": ROWS * (ROWS > 0)}, {}),
    "top_entries": Call(
        top_entries,
        entries_of_top,
        {"activation": ROWS[:4, :3], "feature": TOP.ravel()},
        {"d_sae": N},
    ),
    "select": Call(lambda **a: Coactivation().select(**a), selected, CODES, {"d_sae": N, "k": 5}),
    "select_cosine": Call(
        lambda **a: Coactivation().select_cosine(**a),
        selected_by_cosine,
        {**CODES, "rows": ROWS},
        {"k": 5},
    ),
    "pairs": Call(
        lambda **a: Coactivation().pairs(**a),
        some_sums,
        CODES,
        {"d_sae": N, "first": 1, "last": 5},
    ),
    "blocks": Call(
        lambda **a: (Coactivation().blocks(**a)[-1],),
        lambda crow, col, d_sae, most_pairs: (d_sae,),
        {"crow": CROW, "col": COL},
        {"d_sae": N, "most_pairs": 6},
    ),
    "row_norms": Call(
        lambda rows: (row_norms(rows),),
        lambda rows: (np.sqrt((rows.astype(np.float64) ** 2).sum(1)),),
        {"rows": ROWS},
        {},
    ),
    "pair_cosines": Call(lambda **a: (pair_cosines(**a),), cosines, {**PRICED, "norms": NORMS}, {}),
    "pair_gradient": Call(
        lambda **a: (pair_gradient(**a),),
        gradient,
        {**PRICED, "slope": SCORE - 4, "moves_i": FLAGS, "moves_j": ~FLAGS, "norms": NORMS},
        {},
    ),
    "pair_penalty": Call(
        pair_penalty,
        penalty,
        {
            **PRICED,
            "tau": RNG.random(K).astype(np.float32) / 5,
            "weight": SCORE,
            "i_is_child": FLAGS,
            "norms": NORMS,
        },
        {},
    ),
    "observe": Call(observed, averages, PAIRS, {"step": 3}),
    "ema": Call(looked_up, known, PAIRS, {}),
}

ARRAYS = [(name, array) for name, call in CALLS.items() for array in call.arrays]
NUMBERS = [(name, number) for name, call in CALLS.items() for number in call.numbers]
