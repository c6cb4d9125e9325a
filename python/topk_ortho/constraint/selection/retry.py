"""Recovery from out-of-memory: the same work again, in half the memory.

Every selection is exact whatever its budget, so a retry gives the pairs that the first attempt
would have given. The Rust side allocates what a large answer takes before it begins, and raises
MemoryError; what else it holds (the codes, one accumulator per thread) cannot be caught.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

LEAST_BUDGET = 2**20
T = TypeVar("T")


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an allocation failed: on CUDA, in torch on CPU, or in Python and numpy."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("DefaultCPUAllocator", "not enough memory")
    )


def halving(attempt: Callable[[int], T], budget: int) -> tuple[T, int]:
    """Returns `attempt(budget)`, with the budget halved each time memory runs out.

    Returns:
        The result, and the budget that it took.

    Raises:
        torch.OutOfMemoryError, RuntimeError, MemoryError: not even `LEAST_BUDGET` helps.
    """
    taken = budget
    while True:
        try:
            result = attempt(taken)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or taken <= LEAST_BUDGET:
                raise
        else:
            if taken < budget:
                log.warning(
                    "memory ran out while pairs were selected; the same selection took a budget of "
                    "%d bytes in place of %d, which stays (--pairs.memory-budget %d)",
                    taken, budget, taken,
                )  # fmt: skip
            return result, taken
        # Outside the except clause, whose traceback holds on to the tensors of the attempt.
        taken = max(LEAST_BUDGET, taken // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
