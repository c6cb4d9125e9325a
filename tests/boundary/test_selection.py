"""TopK and top_products against a brute force, over the boundary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.boundary.calls import best
from topk_ortho._core import TopK, top_products

Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]

SCORES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 2.0, 1e-45]),
    st.floats(0, 2.0**100, width=32),
)


def assert_equal(got: Columns, expected: Columns) -> None:
    for at in range(3):
        assert got[at].dtype == expected[at].dtype
        np.testing.assert_array_equal(got[at], expected[at])


def all_pairs(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    i, j = np.triu_indices(n, 1)
    return i.astype(np.int64), j.astype(np.int64)


@settings(max_examples=200, deadline=None)
@given(
    scores=st.lists(SCORES, max_size=190),
    k=st.integers(1, 250),
    block=st.integers(1, 190),
    seed=st.integers(0, 2**32 - 1),
)
def test_topk_equals_brute_force(scores: list[float], k: int, block: int, seed: int) -> None:
    i, j = all_pairs(20)
    score = np.array(scores, np.float32)
    order = np.random.default_rng(seed).permutation(len(scores))
    i, j, score = i[order], j[order], score[order]
    selector = TopK(k)
    for start in range(0, len(scores), block):
        part = slice(start, start + block)
        selector.push(i[part], j[part], score[part])
        seen = best(i[: start + block], j[: start + block], score[: start + block], k)[2]
        assert len(selector) == len(seen)
        assert selector.threshold() == (seen[-1] if len(seen) == k else None)
    assert_equal(selector.finish(), best(i, j, score, k))
    assert len(selector) == 0


@pytest.mark.parametrize("k", [1, 256, 257, 20_000, 10**30 % 2**63])
@pytest.mark.parametrize("block", [1_000, 200_000])
def test_topk_of_many(k: int, block: int) -> None:
    rng = np.random.default_rng(k % 1000)
    i, j = all_pairs(700)
    score = (rng.integers(0, 5_000, len(i)) / 7).astype(np.float32)
    selector = TopK(k)
    for start in range(0, len(i), block):
        part = slice(start, start + block)
        selector.push(i[part], j[part], score[part])
    assert_equal(selector.finish(), best(i, j, score, k))


@settings(max_examples=200, deadline=None)
@given(
    m=st.lists(
        st.one_of(st.sampled_from([0.0, 1.0, 3.0]), st.floats(0, 2.0**60, width=32)), max_size=30
    ),
    k=st.integers(1, 500),
)
def test_top_products_equal_brute_force(m: list[float], k: int) -> None:
    values = np.array(m, np.float32)
    i, j = all_pairs(len(m))
    exact = values.astype(np.float64)
    score = (exact[i] * exact[j]).astype(np.float32)
    assert_equal(top_products(values, k), best(i, j, score, k))


def test_threshold_lets_a_producer_skip() -> None:
    selector = TopK(2)
    selector.push(np.array([0, 3]), np.array([1, 4]), np.array([5, 5], np.float32))
    assert selector.threshold() == 5.0
    selector.push(np.array([0]), np.array([2]), np.array([5], np.float32))
    i, j, _ = selector.finish()
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 1), (0, 2)]


@pytest.mark.parametrize("k", [0, -1, 2**64])
def test_k_out_of_range(k: int) -> None:
    with pytest.raises(ValueError, match=r"k is .*; expected .*; "):
        TopK(k)
    with pytest.raises(ValueError, match=r"k is .*; expected .*; "):
        top_products(np.ones(3, np.float32), k)


@pytest.mark.parametrize("k", [1.0, "1", None, True, np.float64(3)])
def test_k_of_another_type(k: object) -> None:
    with pytest.raises(TypeError, match=r"k is of type .*; expected int; "):
        TopK(k)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0, -1e-45])
def test_bad_scores_name_the_pair_and_take_nothing(value: float) -> None:
    selector = TopK(4)
    with pytest.raises(ValueError, match=r"i = 3, j = 9.*; expected .*; "):
        selector.push(np.array([0, 3]), np.array([1, 9]), np.array([1, value], np.float32))
    assert len(selector) == 0
    with pytest.raises(ValueError, match=r"feature 2 .*; expected .*; "):
        top_products(np.array([1, 1, value], np.float32), 1)


def test_an_overflowing_product_names_the_pair() -> None:
    with pytest.raises(ValueError, match="i = 0, j = 2"):
        top_products(np.array([2e38, 1, 2e38], np.float32), 1)


def test_scores_of_another_dtype() -> None:
    one, two = np.array([1]), np.array([2])
    for dtype in (np.float64, np.float16, np.int32, object, ">f4"):
        with pytest.raises(TypeError, match=r"score has dtype .*; expected float32; "):
            TopK(1).push(one, two, np.array([1]).astype(dtype))
        with pytest.raises(TypeError, match=r"m has dtype .*; expected float32; "):
            top_products(np.array([1]).astype(dtype), 1)
