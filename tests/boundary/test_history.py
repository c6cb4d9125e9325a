"""PairHistory against an unbounded moving average in numpy, over the boundary."""

from __future__ import annotations

import pickle
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from topk_ortho._core import PairHistory, TopK, top_products

FEATURES = 12
LEFT, RIGHT = (column.astype(np.int64) for column in np.triu_indices(FEATURES, 1))
NOTHING = np.array([], np.int64)
ROUNDING = 1e-12

SELECTIONS = st.sets(st.one_of(st.integers(0, 6), st.integers(0, len(LEFT) - 1)), max_size=20)
RUNS = st.lists(SELECTIONS, min_size=1, max_size=30)


def pairs(selected: set[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    at = np.array(sorted(selected), np.int64)
    return LEFT[at], RIGHT[at]


@settings(max_examples=150, deadline=None)
@given(run=RUNS, capacity=st.integers(1, 30), decay=st.sampled_from([0.001, 0.5, 0.9, 0.99]))
def test_guarantee(run: list[set[int]], capacity: int, decay: float) -> None:
    history = PairHistory(capacity=capacity, decay=decay)
    exact = np.zeros(len(LEFT))
    largest = 0
    for step, selected in enumerate(run):
        history.observe(step * 5, *pairs(selected))
        exact = decay * exact + (1 - decay) * np.isin(np.arange(len(LEFT)), list(selected))
        largest = max(largest, len(selected))
    i, j, low, high, *_ = history.top(10**9)
    code = i * FEATURES + j
    truth = dict(zip((LEFT * FEATURES + RIGHT).tolist(), exact.tolist(), strict=True))
    held = np.array([truth[pair] for pair in code.tolist()])
    assert np.all(low <= held + ROUNDING)
    assert np.all(held <= high + ROUNDING)
    assert np.all(high - low <= largest / capacity + ROUNDING)
    assert history.max_error <= largest / capacity + ROUNDING
    assert len(history) == len(i) <= capacity * 1.25
    heavy = {pair for pair, average in truth.items() if average > largest / capacity + ROUNDING}
    assert heavy <= set(code.tolist())
    lows = dict(zip(code.tolist(), low.tolist(), strict=True))
    assert history.ema(LEFT, RIGHT).tolist() == [
        lows.get(pair, 0.0) for pair in (LEFT * FEATURES + RIGHT).tolist()
    ]


@settings(max_examples=100, deadline=None)
@given(run=RUNS)
def test_records_and_stability_by_definition(run: list[set[int]]) -> None:
    history = PairHistory(capacity=1000, decay=0.5)
    for step, selected in enumerate(run):
        history.observe(step + 100, *pairs(selected))
    for i, j, *_, hits, first, last, streak, longest in zip(*history.top(1000), strict=True):
        at = int(np.flatnonzero((i == LEFT) & (j == RIGHT))[0])
        seen = [step for step, selected in enumerate(run) if at in selected]
        lengths = "".join("x" if at in selected else " " for selected in run).split(" ")
        assert (hits, first, last) == (len(seen), seen[0] + 100, seen[-1] + 100)
        assert (streak, longest) == (len(lengths[-1]), max(map(len, lengths)))

    report = history.stability()
    overlaps = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in pairwise(run)]
    last_seen = report["last"]
    assert last_seen is not None
    assert last_seen["jaccard"] == (overlaps[-1] if overlaps else None)
    assert report["mean_jaccard"] == (pytest.approx(np.mean(overlaps)) if overlaps else None)
    for lag, (kept, anchored) in report["survival"].items():
        anchors = [t for t in range(0, len(run), lag) if t + lag < len(run)]
        assert kept == sum(len(run[t] & run[t + lag]) for t in anchors)
        assert anchored == sum(len(run[t]) for t in anchors)
    ended = sum(len(a - b) for a, b in pairwise(run))
    assert sum(report["lifetimes"]["counts"]) == ended
    assert report["lifetimes"]["unknown"] == 0

    feature, degree = history.hubs(FEATURES)
    degrees = np.bincount(np.concatenate(pairs(run[-1])), minlength=FEATURES)
    order = [f for f in np.lexsort((np.arange(FEATURES), -degrees)).tolist() if degrees[f]]
    assert feature.tolist() == order
    assert degree.tolist() == degrees[order].tolist()


def test_an_empty_history() -> None:
    history = PairHistory(capacity=3, decay=0.9)
    report = history.stability()
    assert report["observations"] == 0
    assert report["last"] is report["last_step"] is report["mean_jaccard"] is None
    kinds = ["int64"] * 2 + ["float64"] * 2 + ["int64"] * 5
    assert [column.dtype.name for column in history.top(5)] == kinds
    assert (len(history), history.capacity, history.decay, history.observations) == (0, 3, 0.9, 0)
    assert history.last_step is None
    assert history.max_error == 0.0
    assert PairHistory.from_bytes(history.to_bytes()).to_bytes() == history.to_bytes()


def small() -> PairHistory:
    history = PairHistory(capacity=3, decay=0.75)
    for step in range(6):
        history.observe(step, *pairs(set(range(step % 4))))
    return history


def test_continuation_is_exact() -> None:
    straight, resumed = small(), PairHistory.from_bytes(small().to_bytes())
    for step in range(6, 40):
        selection = pairs({step % 7, step % 5 + 7, step % 3 + 20})
        straight.observe(step, *selection)
        resumed.observe(step, *selection)
    assert straight.to_bytes() == resumed.to_bytes()
    assert straight.stability() == resumed.stability()


def test_every_flip_and_every_truncation_is_refused() -> None:
    good = small().to_bytes()
    for at in range(len(good)):
        for flip in (1, 0x80, 0xFF):
            bad = bytearray(good)
            bad[at] ^= flip
            with pytest.raises(ValueError, match="expected"):
                PairHistory.from_bytes(bytes(bad))
        with pytest.raises(ValueError, match="expected"):
            PairHistory.from_bytes(good[:at])
    for at in range(len(good) - 4):
        cut = good[:at]
        with pytest.raises(ValueError, match="expected"):
            PairHistory.from_bytes(cut + zlib.crc32(cut).to_bytes(4, "little"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=900), st.booleans())
def test_arbitrary_bytes_are_refused(data: bytes, headed: bool) -> None:
    body = b"TKOH\x01\x00\x00\x00" + data if headed else data
    with pytest.raises(ValueError, match="expected"):
        PairHistory.from_bytes(body + zlib.crc32(body).to_bytes(4, "little"))


COLUMNS = [
    ([0, 1], [5, 6], None),
    ([-1], [5], ValueError),
    ([5], [-1], ValueError),
    ([5], [5], ValueError),
    ([6], [5], ValueError),
    ([0], [2**32], ValueError),
    ([-(2**63)], [2**63 - 1], ValueError),
    ([0, 1], [2], ValueError),
    ([0, 0], [2, 2], ValueError),
]


@pytest.mark.parametrize(("i", "j", "error"), COLUMNS)
def test_columns(i: list[int], j: list[int], error: type[Exception] | None) -> None:
    history = small()
    before = history.to_bytes()
    columns = np.array(i, np.int64), np.array(j, np.int64)
    if error is None:
        history.observe(100, *columns)
        return
    with pytest.raises(error, match=r".+; expected .+; .+"):
        history.observe(100, *columns)
    if len(set(i)) == len(i):
        with pytest.raises(error, match=r".+; expected .+; .+"):
            history.ema(*columns)
        with pytest.raises(error, match=r".+; expected .+; .+"):
            TopK(1).push(*columns, np.ones(len(i), np.float32))
    assert history.to_bytes() == before


@pytest.mark.parametrize(
    ("column", "error"),
    [
        ([0], TypeError),
        (None, TypeError),
        (0, TypeError),
        (np.array([0], np.int32), TypeError),
        (np.array([0], np.uint64), TypeError),
        (np.array([0.0]), TypeError),
        (np.array([0], ">i8"), TypeError),
        (np.array([0], object), TypeError),
        (np.array(["a"]), TypeError),
        (np.array([0], "datetime64[s]"), TypeError),
        (np.array(0), ValueError),
        (np.array([[0]]), ValueError),
        (np.zeros((1, 1, 1), np.int64), ValueError),
    ],
)
def test_columns_of_another_kind(column: object, error: type[Exception]) -> None:
    history = small()
    one = np.array([1])
    calls = (
        lambda: history.observe(100, column, one),  # type: ignore[arg-type]
        lambda: history.observe(100, one, column),  # type: ignore[arg-type]
        lambda: history.ema(column, one),  # type: ignore[arg-type]
        lambda: TopK(1).push(column, one, np.ones(1, np.float32)),  # type: ignore[arg-type]
    )
    for call in calls:
        with pytest.raises(error, match=r".+; expected .+; .+"):
            call()
    assert history.observations == 6


def test_any_layout_is_read() -> None:
    i, j = np.array([0, 3, 4]), np.array([7, 8, 9])
    read_only = i.copy()
    read_only.flags.writeable = False
    strided = np.repeat(i, 3)[::3]
    backward = i[::-1].copy()[::-1]
    unaligned = np.frombuffer(b"x" + i.tobytes(), np.uint8)[1:].view(np.int64)
    fortran = np.asfortranarray(np.stack([i, i]))[0]
    assert not unaligned.flags.aligned
    plain = PairHistory(capacity=9, decay=0.5)
    plain.observe(0, i, j)
    for layout in (read_only, strided, backward, unaligned, fortran):
        history = PairHistory(capacity=9, decay=0.5)
        history.observe(0, layout, j)
        assert history.to_bytes() == plain.to_bytes()


@pytest.mark.parametrize("step", [5, 4, -1, 2**63, 2**64, 10**30])
def test_steps_out_of_range(step: int) -> None:
    history = small()
    with pytest.raises(ValueError, match=r"step .*; expected .*; "):
        history.observe(step, NOTHING, NOTHING)
    assert history.last_step == 5


@pytest.mark.parametrize("step", [6.0, "6", None, True])
def test_steps_of_another_type(step: object) -> None:
    with pytest.raises(TypeError, match=r"step is of type .*; expected int; "):
        small().observe(step, NOTHING, NOTHING)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("capacity", "decay", "error"),
    [
        (0, 0.5, ValueError),
        (-1, 0.5, ValueError),
        (2**62, 0.5, ValueError),
        (2**70, 0.5, ValueError),
        (1.5, 0.5, TypeError),
        (1, 0.0, ValueError),
        (1, 1.0, ValueError),
        (1, float("nan"), ValueError),
        (1, float("inf"), ValueError),
        (1, "0.5", TypeError),
    ],
)
def test_configurations(capacity: int, decay: float, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"(capacity|decay) is .*; expected .*; "):
        PairHistory(capacity=capacity, decay=decay)


def test_bytes_of_another_type() -> None:
    for data in (bytearray(small().to_bytes()), memoryview(b"TKOH"), "TKOH", None):
        with pytest.raises(TypeError, match=r"data is of type .*; expected bytes; "):
            PairHistory.from_bytes(data)  # type: ignore[arg-type]


def test_nothing_is_pickled() -> None:
    for thing in (small(), TopK(1)):
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(thing)


def test_32_threads_share_one_history_and_one_selector() -> None:
    history, best = PairHistory(capacity=20, decay=0.9), TopK(300)
    m = np.arange(200, dtype=np.float32)

    def work(thread: int) -> int:
        refused = 0
        for n in range(60):
            try:
                history.observe(n * 32 + thread, *pairs({n % 60, thread}))
            except ValueError:
                refused += 1
            history.ema(LEFT, RIGHT)
            history.top(5)
            assert PairHistory.from_bytes(history.to_bytes()).capacity == 20
            start = np.arange(n * 32 + thread, n * 32 + thread + 1)
            best.push(start, start + 1, start.astype(np.float32))
            best.threshold()
            assert len(top_products(m, 50)[0]) == 50
        return refused

    with ThreadPoolExecutor(32) as pool:
        refused = sum(pool.map(work, range(32)))
    assert history.observations == 60 * 32 - refused
    assert best.finish()[0].tolist() == list(range(60 * 32 - 1, 60 * 32 - 301, -1))


def test_memory_does_not_grow_over_10_000_calls() -> None:
    resource = pytest.importorskip("resource")
    history = PairHistory(capacity=30, decay=0.9)
    m = np.arange(50, dtype=np.float32)

    def calls(start: int) -> None:
        for step in range(start, start + 10_000):
            history.observe(step, *pairs({step % 60, step % 7}))
            history.top(9)
            history.stability()
            best = TopK(9)
            best.push(LEFT, RIGHT, np.ones(len(LEFT), np.float32))
            best.finish()
            top_products(m, 20)
            with pytest.raises(ValueError, match="expected"):
                history.observe(step, LEFT, LEFT)

    calls(0)
    before, bytes_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, history.bytes
    calls(10_000)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 4_096, "kilobytes"
    assert history.bytes <= bytes_before + 4_096
