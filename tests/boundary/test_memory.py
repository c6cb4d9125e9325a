"""Memory at the boundary: it does not grow, and what the machine does not have is refused.

What is refused runs in a process of its own that has little memory: one that ends fails the test.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.boundary import growth
from tests.boundary.calls import CALLS
from tests.conftest import environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def grown() -> dict[str, int]:
    """Bytes left behind by 10,000 calls, by name."""
    if not growth.STATM.exists():
        pytest.skip("the memory of a process is read from /proc, which is not here")
    done = subprocess.run(
        [sys.executable, "-m", "tests.boundary.growth"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_leak_is_seen(grown: dict[str, int]) -> None:
    assert grown["a leak"] > growth.BOUND


@pytest.mark.fault("memory that grows with every call")
@pytest.mark.parametrize("name", [*(f"{name}, answered" for name in CALLS), "objects that stay"])
def test_memory_is_flat_over_10_000_calls(name: str, grown: dict[str, int]) -> None:
    assert grown[name] < growth.BOUND


@pytest.mark.fault("memory that grows with every refused call")
@pytest.mark.parametrize("name", CALLS)
def test_memory_is_flat_over_10_000_refused_calls(name: str, grown: dict[str, int]) -> None:
    assert grown[f"{name}, refused"] < growth.BOUND


LITTLE = """
import resource, sys
import numpy as np
from topk_ortho._core import Coactivation, PairHistory, TopK, top_products
now = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (now + {budget}, now + {budget}))

def refused(call, *kinds):
    try:
        call()
    except kinds as error:
        assert "expected" in str(error), error
        print(type(error).__name__, error)
    else:
        raise AssertionError("not refused")

def dense(n):
    return np.array([0, n]), np.arange(n), np.ones(n, np.float32)
"""

ABSURD = {
    "top_products, k of 2^32": (
        "refused(lambda: top_products(np.ones(100_000, np.float32), 2**32), ValueError)\n"
        "assert len(top_products(np.ones(3, np.float32), 2**32)[0]) == 3"
    ),
    "top_products, all of 8e8 pairs": (
        "refused(lambda: top_products(np.ones(40_000, np.float32), 2**30), MemoryError)"
    ),
    "select, all of 8e8 pairs": (
        "one = Coactivation()\n"
        "refused(lambda: one.select(*dense(40_000), 40_000, 2**62), MemoryError)\n"
        "assert len(one.select(*dense(3), 40_000, 2**62)[0]) == 3"
    ),
    "select, more pairs than a selection holds": (
        "refused(lambda: Coactivation().select(*dense(60_000), 60_000, 2**62), ValueError)"
    ),
    "select_cosine, all of 8e8 pairs": (
        "rows = np.ones((40_000, 1), np.float32)\n"
        "one = Coactivation(threads=256)\n"
        "refused(lambda: one.select_cosine(*dense(40_000), rows, 2**62), MemoryError)"
    ),
    "pairs, 8e8 of them": (
        "one = Coactivation()\n"
        "refused(lambda: one.pairs(*dense(40_000), 40_000, 0, 40_000), MemoryError)\n"
        "assert len(one.pairs(*dense(40_000), 40_000, 0, 1)[0]) == 39_999"
    ),
    "d_sae of 2^32": (
        "one = Coactivation()\n"
        "refused(lambda: one.select(*dense(3), 2**32, 1), MemoryError)\n"
        "refused(lambda: one.blocks(np.array([0, 1]), np.array([5]), 2**32, 9), MemoryError)\n"
        "refused(lambda: one.select(*dense(3), 2**32 + 1, 1), ValueError)\n"
        "assert len(one.select(*dense(3), 9, 9)[0]) == 3"
    ),
    "select, sums of a million features on 256 threads": (
        "n = 1_000_000\n"
        "codes = np.arange(n + 1), np.arange(n), np.ones(n, np.float32)\n"
        "refused(lambda: Coactivation(threads=2**40).select(*codes, n, 9), MemoryError)\n"
        "assert len(Coactivation(threads=4).select(*codes, n, 9)[0]) == 0"
    ),
    "PairHistory, capacity of 2^30 and pairs without end": (
        "history, n = PairHistory(capacity=2**30, decay=0.9), 1_000_000\n"
        "def observe():\n"
        "    for at in range(100):\n"
        "        history.observe(at, np.full(n, at), np.arange(n) + 100)\n"
        "refused(observe, MemoryError)\n"
        "held = len(history)\n"
        "assert held >= n and history.observations * n == held\n"
        "assert history.top(3)[0].tolist() == [history.observations - 1] * 3\n"
        "assert history.ema(np.array([0]), np.array([100]))[0] > 0"
    ),
    "PairHistory, bytes and columns of more records than fit": (
        "history, n = PairHistory(capacity=2**30, decay=0.9), 1_000_000\n"
        "for at in range(3):\n"
        "    history.observe(at, np.full(n, at), np.arange(n) + 100)\n"
        "now = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (now + (100 << 20), now + (100 << 20)))\n"
        "refused(history.to_bytes, MemoryError)\n"
        "refused(lambda: history.top(2**62), MemoryError)\n"
        "assert len(history) == 3 * n"
    ),
    "TopK, k of 2^40 and candidates without end": (
        "best, n = TopK(2**40), 2_000_000\n"
        "i, score = np.zeros(n, np.int64), np.ones(n, np.float32)\n"
        "def push():\n"
        "    for at in range(100):\n"
        "        best.push(i, np.arange(1 + at * n, 1 + at * n + n), score)\n"
        "refused(push, MemoryError)\n"
        "held = len(best)\n"
        "assert held >= n and len(best.finish()[0]) == held"
    ),
}


@pytest.mark.fault("an answer that there is no memory for")
@pytest.mark.parametrize("name", ABSURD)
def test_what_there_is_no_memory_for_is_refused(name: str) -> None:
    in_little_memory(ABSURD[name], budget=1 << 30)


@pytest.mark.fault("a thread that the system does not give")
def test_threads_that_do_not_start_are_done_without() -> None:
    in_little_memory(
        "codes = np.arange(0, 3001, 3), np.tile([0, 4, 7], 1000), np.ones(3000, np.float32)\n"
        "got = Coactivation(threads=256).select(*codes, 9, 3)\n"
        "assert got[2].tolist() == [1000] * 3, got\n"
        "rows = np.ones((2000, 4), np.float32)\n"
        "from topk_ortho._core import row_norms\n"
        "assert (row_norms(rows, threads=256) == 2).all()",
        budget=30 << 20,
    )


def in_little_memory(program: str, *, budget: int) -> None:
    if sys.platform != "linux":
        pytest.skip("address space is limited and read as Linux does it")
    done = subprocess.run(
        [sys.executable, "-c", LITTLE.format(budget=budget) + program],
        env=environment() | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
