"""The Rust history behind tensors and arrays: what goes in, what is refused, what comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from topk_ortho.constraint.history import PairHistory, TopPairs

FIRST, SECOND = [0, 0, 3], [1, 4, 4]


def observed(*steps: tuple[int, Any, Any], capacity: int = 64, decay: float = 0.9) -> PairHistory:
    history = PairHistory(capacity=capacity, decay=decay)
    for step, i, j in steps:
        history.observe(step, i, j)
    return history


FORMS: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "torch.int64": lambda v: torch.tensor(v, dtype=torch.int64),
    "torch.int32": lambda v: torch.tensor(v, dtype=torch.int32),
    "torch.uint8": lambda v: torch.tensor(v, dtype=torch.uint8),
    "torch strided": lambda v: torch.tensor([v, v]).T[:, 1],
    **{
        f"numpy.{dtype}": lambda v, dtype=dtype: np.array(v, dtype=dtype)
        for dtype in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    },
    "numpy big endian": lambda v: np.array(v, dtype=">i8"),
    "numpy strided": lambda v: np.repeat(np.array(v), 3)[::3],
}


def read_only(values: list[int]) -> np.ndarray:
    array = np.array(values)
    array.flags.writeable = False
    return array


FORMS["numpy read-only"] = read_only


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_integers_is_the_same_observation(form: str) -> None:
    given = FORMS[form]
    history = observed((1, given(FIRST), given(SECOND)), (5, given(FIRST[:2]), given(SECOND[:2])))
    assert history.to_bytes() == observed((1, FIRST, SECOND), (5, FIRST[:2], SECOND[:2])).to_bytes()
    np.testing.assert_allclose(history.ema(given(FIRST), given(SECOND)), [0.19, 0.19, 0.09])


@pytest.mark.parametrize("empty", [[], torch.empty(0, dtype=torch.int64), np.empty(0, np.int32)])
def test_an_empty_selection_is_an_observation(empty: Any) -> None:
    history = observed((1, FIRST, SECOND), (2, empty, empty))
    assert history.observations == 2
    np.testing.assert_allclose(history.ema(FIRST, SECOND), [0.09, 0.09, 0.09])
    assert history.ema(empty, empty).shape == (0,)


@pytest.mark.parametrize(
    ("i", "j"),
    [
        ([1], [1]),
        ([4], [1]),
        ([-1], [1]),
        ([0], [2**32]),
        ([0], np.array([2**63 + 5], dtype=np.uint64)),
        ([0, 0], [1, 1]),
        ([0, 1], [2]),
        ([[0]], [[1]]),
        (torch.tensor([0]), torch.tensor([0])),
    ],
    ids=["i = j", "i > j", "negative", "33 bits", "64 bits", "twice", "lengths", "2-d", "tensor"],
)
def test_what_is_no_selection_is_refused_and_changes_nothing(i: Any, j: Any) -> None:
    history = observed((1, FIRST, SECOND))
    before = history.to_bytes()
    with pytest.raises(ValueError, match=r"expected|given"):
        history.observe(2, i, j)
    assert history.to_bytes() == before


def test_the_largest_feature_has_32_bits() -> None:
    history = observed((1, [2**32 - 2], [2**32 - 1]))
    top = history.top(1)
    assert (top.i[0], top.j[0]) == (2**32 - 2, 2**32 - 1)


@pytest.mark.parametrize("step", [4, 5, 0])
def test_a_step_that_does_not_go_on_is_refused(step: int) -> None:
    history = observed((5, FIRST, SECOND))
    before = history.to_bytes()
    with pytest.raises(ValueError, match="step"):
        history.observe(step, FIRST, SECOND)
    assert history.to_bytes() == before


@pytest.mark.parametrize(
    "floats",
    [[0.0], torch.tensor([0.0]), np.array([0.5]), torch.zeros(1).bfloat16(), np.array([True])],
    ids=["list", "torch", "numpy", "bfloat16", "bool"],
)
def test_what_is_no_integer_is_refused(floats: Any) -> None:
    history = PairHistory(capacity=8)
    with pytest.raises(TypeError):
        history.observe(1, floats, [1])
    with pytest.raises(TypeError):
        history.ema([0], floats)
    assert history.observations == 0


def test_the_average_is_that_of_the_definition() -> None:
    """β EMA + (1 - β) [selected], from 0, by observation and not by step."""
    generator = np.random.default_rng(0)
    history = PairHistory(capacity=1000, decay=0.8)
    expected = np.zeros((6, 6))
    for step in range(1, 40):
        chosen = np.triu(generator.random((6, 6)) < 0.3, 1)
        i, j = chosen.nonzero()
        history.observe(7 * step, i, j)
        expected = 0.8 * expected + 0.2 * chosen
    i, j = np.triu_indices(6, 1)
    np.testing.assert_allclose(history.ema(i, j), expected[i, j], rtol=1e-6, atol=1e-9)
    top = history.top(100)
    order = np.argsort(-top.ema_low, kind="stable")
    assert order.tolist() == list(range(len(top.i)))
    np.testing.assert_allclose(top.ema_low, expected[top.i, top.j], rtol=1e-6, atol=1e-9)
    assert (top.ema_high >= top.ema_low).all()


def test_top_pairs_are_named_columns_of_one_length() -> None:
    history = observed((3, FIRST, SECOND), (4, FIRST[1:], SECOND[1:]), (9, [2], [3]))
    top = history.top(10)
    assert isinstance(top, TopPairs)
    assert {name: column.dtype for name, column in top._asdict().items()} == {
        "i": np.int64,
        "j": np.int64,
        "ema_low": np.float64,
        "ema_high": np.float64,
        "hits": np.int64,
        "first_seen": np.int64,
        "last_seen": np.int64,
        "streak": np.int64,
        "longest_streak": np.int64,
    }
    assert {column.shape for column in top} == {(4,)}
    rows = list(zip(top.i, top.j, top.hits, top.first_seen, top.last_seen, strict=True))
    assert rows == [(0, 4, 2, 3, 4), (3, 4, 2, 3, 4), (2, 3, 1, 9, 9), (0, 1, 1, 3, 3)]
    assert top.streak.tolist() == [0, 0, 1, 0]
    assert top.longest_streak.tolist() == [2, 2, 1, 1]
    assert history.top(0).i.shape == (0,)
    assert history.top(2).i.tolist() == [0, 3]


def test_an_unknown_pair_has_average_zero() -> None:
    np.testing.assert_array_equal(observed((1, FIRST, SECOND)).ema([7], [9]), [0.0])


def test_bytes_hold_everything() -> None:
    history = observed((1, FIRST, SECOND), (2, FIRST[:1], SECOND[:1]), decay=0.75, capacity=17)
    other = PairHistory.from_bytes(history.to_bytes())
    assert (other.capacity, other.decay, other.observations) == (17, 0.75, 2)
    assert len(other) == len(history) == 3
    for each in (history, other):
        each.observe(8, [1, 4], [9, 9])
    assert history.to_bytes() == other.to_bytes()
    assert history.stability() == other.stability()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_damaged_bytes_are_refused(damage: str) -> None:
    data = bytearray(observed((1, FIRST, SECOND)).to_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    broken = {"truncated": data[:-1], "flipped": data, "empty": b""}[damage]
    with pytest.raises(ValueError, match=r"history|byte|expected"):
        PairHistory.from_bytes(bytes(broken))


def test_hubs_count_the_latest_selection() -> None:
    feature, degree = observed((1, [0], [9]), (2, FIRST, SECOND)).hubs(2)
    assert feature.tolist() == [0, 4]
    assert degree.tolist() == [2, 2]


@pytest.mark.parametrize("options", [{"capacity": 0}, {"capacity": -1}, {"decay": 1.5}])
def test_bad_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"expected|given"):
        PairHistory(**({"capacity": 8} | options))
