"""Arrays that share memory, and objects that 32 threads share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from tests.boundary.calls import CALLS, WIDTH, Array, K, N, same
from topk_ortho._core import Coactivation, PairHistory

WRITERS = ("pair_gradient", "pair_penalty")
INPUTS = [(name, argument) for name in WRITERS for argument in CALLS[name].arrays]

WAYS: dict[str, Callable[[Array], Array]] = {
    "a view": lambda array: array[:],
    "a buffer": lambda array: np.frombuffer(memoryview(array), array.dtype),
    "a tensor": lambda array: torch.from_numpy(array).numpy(),
}


@pytest.mark.fault("an output that overlaps an input")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "argument"), INPUTS)
def test_an_output_that_overlaps_an_input_is_refused(name: str, argument: str, way: str) -> None:
    call = CALLS[name]
    given = call.arrays[argument]
    for place in (0, N * WIDTH * 4 - 8):  # bytes before the input begins
        memory = np.zeros(place + given.nbytes + N * WIDTH * 4 + 8, np.uint8)
        column = memory[place : place + given.nbytes].view(given.dtype).reshape(given.shape)
        column[...] = given
        out = WAYS[way](memory)[: N * WIDTH * 4].view(np.float32).reshape(N, WIDTH)
        with pytest.raises(ValueError, match=r"out .*; expected an array of its own; "):
            call.core(**call.arguments(**{argument: column}), out=out)
        assert np.array_equal(column, given)


@pytest.mark.fault("inputs that overlap each other")
@pytest.mark.parametrize("name", ["pair_cosines", "observe", "TopK"])
def test_inputs_that_overlap_each_other(name: str) -> None:
    call = CALLS[name]
    shared = np.arange(K + 1)
    arguments = call.arguments(i=shared[:-1] % (N - 1), j=shared[:-1] % (N - 1) + 1)
    if name != "pair_cosines":  # chains: each pair's second feature is the next one's first
        arguments |= {"i": shared[:-1], "j": shared[1:]}
    assert same(call.core(**arguments), call.twin(**arguments))


@pytest.mark.parametrize("name", WRITERS)
def test_neighbours_in_one_buffer_do_not_overlap(name: str) -> None:
    call = CALLS[name]
    memory = torch.zeros(2, N, WIDTH)
    memory[0] = torch.from_numpy(call.arrays["rows"])
    rows, out = memory.numpy()[0], memory[1].numpy()
    got = call.core(**call.arguments(rows=rows), out=out)
    assert same(got, call.twin(**call.arguments()))


@pytest.mark.fault("32 threads at once")
@pytest.mark.parametrize("name", CALLS)
def test_32_threads_read_the_same_arrays(name: str) -> None:
    call = CALLS[name]
    arguments, expected = call.arguments(), call.core(**call.arguments())

    def work(_: int) -> bool:
        answers = [call.core(**arguments) for _ in range(20)]
        return all(
            np.array_equal(a, b) for got in answers for a, b in zip(got, expected, strict=True)
        )

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(work, range(32)))


@pytest.mark.fault("32 threads at one object")
def test_32_threads_share_one_selector() -> None:
    one = Coactivation(threads=2)
    kinds: dict[str, Any] = {
        "select": one.select,
        "select_cosine": one.select_cosine,
        "pairs": one.pairs,
    }
    expected = {name: CALLS[name].core(**CALLS[name].arguments()) for name in kinds}

    def work(thread: int) -> bool:
        name = list(kinds)[thread % 3]
        fine = True
        for n in range(20):
            if n % 7 == thread % 7:
                with pytest.raises(ValueError, match="expected"):
                    one.select(**CALLS["select"].arguments(k=0))
            got = kinds[name](**CALLS[name].arguments())
            fine &= all(np.array_equal(a, b) for a, b in zip(got, expected[name], strict=True))
        return fine

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(work, range(32)))


@pytest.mark.fault("32 threads at one output")
@pytest.mark.parametrize("name", WRITERS)
def test_32_threads_write_to_one_output(name: str) -> None:
    call = CALLS[name]
    out = np.zeros((N, WIDTH), np.float32)

    def work(_: int) -> int:
        written = 0
        for _ in range(50):
            try:
                call.core(**call.arguments(), out=out)
                written += 1
            except ValueError as error:  # another thread is writing
                if "expected an array of its own" not in str(error):
                    raise
        return written

    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(work, range(32))) > 0
    assert same((out,), call.twin(**call.arguments())[-1:])


@pytest.mark.fault("32 threads at one object")
def test_32_threads_read_bytes_while_one_observes() -> None:
    history = PairHistory(capacity=50, decay=0.9)
    arguments = CALLS["observe"].arguments()

    def work(thread: int) -> int:
        for n in range(30):
            if thread == 0:
                history.observe(n, arguments["i"], arguments["j"])
            back = PairHistory.from_bytes(history.to_bytes())
            assert len(back) in (0, K)
        return history.observations

    with ThreadPoolExecutor(32) as pool:
        assert max(pool.map(work, range(32))) == 30
