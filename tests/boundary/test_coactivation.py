"""Coactivation against sums row by row in numpy, over the boundary."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.boundary.calls import best
from topk_ortho._core import Coactivation

Codes = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], int]
D_SAE = 20

VALUES = st.one_of(st.sampled_from([1.0, 2.0, 0.25]), st.floats(2.0**-20, 2.0**20, width=32))
ROWS = st.lists(st.dictionaries(st.integers(0, D_SAE - 1), VALUES, max_size=8), max_size=15)


def codes(rows: list[dict[int, float]]) -> Codes:
    ends = np.cumsum([0, *map(len, rows)])
    entries = [(feature, row[feature]) for row in rows for feature in sorted(row)]
    col = np.array([entry[0] for entry in entries], np.int64)
    value = np.array([entry[1] for entry in entries], np.float32)
    return ends.astype(np.int64), col, value, D_SAE


def sums(batch: Codes) -> NDArray[np.float64]:
    crow, col, value, d_sae = batch
    total = np.zeros((d_sae, d_sae))
    for start, end in pairwise(crow.tolist()):
        features, row = col[start:end], value[start:end].astype(np.float64)
        total[np.ix_(features, features)] += np.outer(row, row)
    return np.triu(total, 1)


def best_of(score: NDArray[np.float32], k: int) -> tuple[list[int], list[int], list[float], int]:
    i, j = np.triu_indices(len(score), 1)
    flat = score[i, j]
    i, j, taken = best(i, j, flat, k)
    return i.tolist(), j.tolist(), taken.tolist(), int((flat > 0).sum())


@settings(max_examples=150, deadline=None)
@given(
    batches=st.lists(st.tuples(ROWS, st.integers(1, 200)), min_size=1, max_size=4),
    threads=st.integers(1, 3),
)
def test_select_equals_brute_force(
    batches: list[tuple[list[dict[int, float]], int]], threads: int
) -> None:
    coactivation = Coactivation(threads=threads)
    for rows, k in batches:
        crow, col, value, d_sae = codes(rows)
        expected = best_of(sums((crow, col, value, d_sae)).astype(np.float32), k)
        for features in (col, col.astype(np.uint32)):
            for values in (value, value.astype(np.float64)):
                i, j, score, positive = coactivation.select(crow, features, values, d_sae, k)
                assert (i.dtype, j.dtype, score.dtype) == (np.int64, np.int64, np.float32)
                assert (i.tolist(), j.tolist(), score.tolist(), positive) == expected


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, most=st.integers(0, 80))
def test_blocks_of_pairs_are_all_pairs(rows: list[dict[int, float]], most: int) -> None:
    crow, col, value, d_sae = codes(rows)
    coactivation = Coactivation()
    ends = coactivation.blocks(crow, col, d_sae, most)
    starts = [0, *ends[:-1]]
    parts = [
        coactivation.pairs(crow, col, value, d_sae, first, last)
        for first, last in zip(starts, ends, strict=True)
    ]
    i, j, total = (np.concatenate(column) for column in zip(*parts, strict=True))
    expected = sums((crow, col, value, d_sae))
    assert ends[-1] == d_sae
    assert np.array_equal(np.stack([i, j]), np.stack(np.nonzero(expected)))
    assert np.array_equal(total, expected[i, j])


@settings(max_examples=50, deadline=None)
@given(rows=ROWS, k=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
def test_select_cosine_equals_brute_force(rows: list[dict[int, float]], k: int, seed: int) -> None:
    crow, col, value, d_sae = codes(rows)
    # Small whole numbers: their products and sums are exact in any order.
    matrix = np.random.default_rng(seed).integers(-3, 4, (d_sae, 37)).astype(np.float32)
    matrix[0] = 0
    exact = matrix.astype(np.float64)
    norm = np.sqrt((exact**2).sum(1))
    inverse = np.divide(1, norm, out=np.zeros_like(norm), where=norm > 0)
    together = sums((crow, col, value, d_sae)) > 0
    cosine = np.where(together, exact @ exact.T * inverse[:, None] * inverse, 0)
    expected = best_of(np.maximum(cosine, 0).astype(np.float32), k)
    for threads in (1, 2):
        i, j, score, positive = Coactivation(threads=threads).select_cosine(
            crow, col, value, matrix, k
        )
        assert (i.tolist(), j.tolist(), score.tolist(), positive) == expected


def test_a_score_beyond_float32_names_the_pair() -> None:
    crow, col = np.array([0, 2]), np.array([3, 7])
    coactivation = Coactivation()
    with pytest.raises(ValueError, match=r"i = 3, j = 7 is inf; expected .*; "):
        coactivation.select(crow, col, np.array([1e30, 1e30], np.float32), 9, 1)
    assert coactivation.select(crow, col, np.ones(2, np.float32), 9, 1)[3] == 1


@pytest.mark.parametrize(
    ("crow", "col", "message"),
    [
        ([0, 3], [1, 2], "crow"),
        ([0, 2, 1, 2], [1, 2], "row 1"),
        ([0, 2], [2, 1], "row 0"),
        ([0, 2], [1, 9], "below 9"),
        ([0, 2], [-1, 2], "-1"),
    ],
)
def test_codes_that_are_no_csr(crow: list[int], col: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Coactivation().select(np.array(crow), np.array(col), np.ones(2, np.float32), 9, 1)


def test_other_types_and_numbers_out_of_range() -> None:
    crow, col, value = np.array([0, 2]), np.array([1, 2]), np.ones(2, np.float32)
    coactivation = Coactivation()
    with pytest.raises(TypeError, match=r"col has dtype int32; expected int64; "):
        coactivation.select(crow, col.astype(np.int32), value, 3, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"value has dtype float16; expected float32; "):
        coactivation.select(crow, col, value.astype(np.float16), 3, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"crow is of type list; expected a numpy array"):
        coactivation.select([0, 2], col, value, 3, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"k is 0; expected at least 1; "):
        coactivation.select(crow, col, value, 3, 0)
    with pytest.raises(ValueError, match=r"features 2 to 1 were asked for; expected .*; "):
        coactivation.pairs(crow, col, value, 3, 2, 1)
    with pytest.raises(ValueError, match=r"threads is 0; expected at least 1; "):
        Coactivation(threads=0)
    with pytest.raises(ValueError, match=r"rows has 1 dimensions; expected 2; "):
        coactivation.select_cosine(crow, col, value, value, 1)
    bad = np.array([[1.0], [np.inf], [1.0]], np.float32)
    with pytest.raises(ValueError, match=r"row 1 of the matrix is not finite; "):
        coactivation.select_cosine(crow, col, value, bad, 1)
