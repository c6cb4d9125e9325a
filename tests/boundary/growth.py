"""What 10,000 calls of each function of the core leave behind, measured in a process of its own.

`python -m tests.boundary.growth` prints the bytes by name as JSON. In another process a leak would
first fill what others freed, and not be seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.boundary.calls import CALLS, ROWS
from topk_ortho._core import Coactivation, PairHistory, TopK

WARM_UP, MEASURED = 2_000, 10_000
BOUND = 1 << 20
"""Bytes: some 100 a call would be seen."""
LEAK = 300
"""Bytes that the leak leaves behind with each call."""

STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of this process in memory."""
    return int(STATM.read_text().split()[1]) * 4096


def growth(call: Callable[[], object]) -> int:
    """Bytes that the calls leave behind after a warm-up: the lesser of two measurements."""
    for _ in range(WARM_UP):
        call()
    grown = []
    for _ in range(2):
        before = resident()
        for _ in range(MEASURED):
            call()
        grown.append(resident() - before)
        if grown[-1] < BOUND:
            break
    return min(grown)


def answered(name: str) -> Callable[[], object]:
    arguments = CALLS[name].arguments()
    return lambda: CALLS[name].core(**arguments)


def refused(name: str) -> Callable[[], object]:
    arguments = CALLS[name].arguments()
    first = next(iter(arguments))
    arguments[first] = arguments[first].astype(np.float16)

    def call() -> None:
        try:
            CALLS[name].core(**arguments)
        except TypeError:
            return
        raise AssertionError(name)

    return call


def objects_that_stay() -> Callable[[], object]:
    """One selector of each kind and one history, which is written and read now and then."""
    codes = CALLS["select"].arguments()
    columns = codes["crow"], codes["col"], codes["value"]
    one, history, selector = Coactivation(threads=2), PairHistory(capacity=20, decay=0.9), TopK(300)
    step = 0

    def call() -> None:
        nonlocal step
        i, j, score, _ = one.select(**codes)
        one.select_cosine(*columns, ROWS, 3)
        history.observe(step, i, j)
        selector.push(i, j, score)
        if step % 100 == 0:
            selector.finish()
            PairHistory.from_bytes(history.to_bytes()).stability()
        step += 1

    return call


def leak() -> Callable[[], object]:
    kept: list[bytes] = []
    return lambda: kept.append(bytes(LEAK))


def main() -> None:
    """Print all figures."""
    calls = {f"{name}, answered": answered(name) for name in CALLS}
    calls |= {f"{name}, refused": refused(name) for name in CALLS}
    calls |= {"objects that stay": objects_that_stay(), "a leak": leak()}
    print(json.dumps({name: growth(call) for name, call in calls.items()}))


if __name__ == "__main__":
    main()
