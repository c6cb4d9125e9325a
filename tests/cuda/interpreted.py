"""Kernels in Triton's interpreter, on what pretended tensors hold; launches are counted.

Triton decides for the interpreter when it is imported: `tests/conftest.py` asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import Tensor

from tests.cuda.pretend import Pretend
from topk_ortho.machine import kernels

launches: Counter[str] = Counter()
"""Launches by the name of the kernel."""


def interpret(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], how: Any) -> None:
    launches[kernel.fn.__name__] += 1
    how = {name: value for name, value in how.items() if name != "enable_fp_fusion"}
    kernel[grid](*(_held(argument) for argument in args), **how)


def only_count(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], how: Any) -> None:
    launches[kernel.fn.__name__] += 1


def _held(argument: Any) -> Any:
    return argument.held if isinstance(argument, Pretend) else argument


@contextmanager
def interpreter(launcher: kernels.Launcher = interpret) -> Iterator[Counter[str]]:
    """Launches go to the interpreter, on tensors of the CPU or pretended ones."""
    pytest.importorskip("triton", reason="Triton is not installed")
    launches.clear()
    previous = kernels.launched_by(launcher)
    try:
        yield launches
    finally:
        kernels.launched_by(previous)


def is_clean(*tensors: Tensor) -> bool:
    return not any(bool(tensor.any()) for tensor in tensors)
