"""`PairHistory`: the Rust pair history behind tensors and arrays (method 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topk_ortho import _core


class TopPairs(NamedTuple):
    """Columns of the most persistent pairs, the highest `ema_low` first.

    `ema_low <= EMA <= ema_high` bound the moving average of "selected"; `first_seen` and
    `last_seen` are steps; `streak` is 0 for a pair that is not in the latest selection.
    """

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    ema_low: NDArray[np.float64]
    ema_high: NDArray[np.float64]
    hits: NDArray[np.int64]
    first_seen: NDArray[np.int64]
    last_seen: NDArray[np.int64]
    streak: NDArray[np.int64]
    longest_streak: NDArray[np.int64]


class PairHistory:
    """A record of how often and how steadily pairs were chosen, in bounded memory.

    Every pair whose moving average exceeds `k / capacity` (k: pairs per observation) is in the
    table, and its average lies within `[ema_low, ema_high]`, at most `k / capacity` apart.

    Args:
        capacity: entries kept.
        decay: β of the moving average, per observation.
    """

    def __init__(self, *, capacity: int, decay: float = 0.99):
        self._core = _core.PairHistory(capacity=capacity, decay=decay)

    def __repr__(self) -> str:
        return (f"PairHistory({len(self):,} of {self.capacity:,} entries, "
                f"{self.observations:,} observations, decay={self.decay:g})")  # fmt: skip

    def observe(self, step: int, i: Any, j: Any) -> None:
        """Record one selection.

        Args:
            step: above the step of the observation before.
            i, j: `[k]` integer tensors (any device) or arrays, `i < j`, each pair once.

        Raises:
            ValueError: a step that goes back, i >= j, a negative index or one beyond 32 bits, a
                pair given twice, or lengths that differ.
            TypeError: not integers.
        """
        self._core.observe(step, _indices(i), _indices(j))

    def ema(self, i: Any, j: Any) -> NDArray[np.float64]:
        """Returns `[k]` lower bounds of the pairs' current moving averages, 0 for unknown pairs."""
        return self._core.ema(_indices(i), _indices(j))

    def top(self, n: int) -> TopPairs:
        """Returns the `n` most persistent pairs, ties to the smaller (i, j)."""
        return TopPairs(*self._core.top(n))

    def stability(self) -> Mapping[str, Any]:
        """Returns overlap of successive selections, survival, lifetimes (`docs/method.md`)."""
        return self._core.stability()

    def hubs(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns `(feature, degree)`: the features in most pairs of the latest selection."""
        return self._core.hubs(n)

    def to_bytes(self) -> bytes:
        """Returns the whole state in a versioned, checksummed format."""
        return self._core.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> PairHistory:
        """Returns the history that `to_bytes` wrote.

        Raises:
            ValueError: damaged bytes, or a version this package does not know.
        """
        history = cls.__new__(cls)
        history._core = _core.PairHistory.from_bytes(data)
        return history

    @property
    def capacity(self) -> int:
        return self._core.capacity

    @property
    def decay(self) -> float:
        return self._core.decay

    @property
    def observations(self) -> int:
        return self._core.observations

    def __len__(self) -> int:
        return len(self._core)


def _indices(values: Any) -> NDArray[np.int64]:
    """One-dimensional int64 numpy array; torch is not imported for it."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(
            f"indices of dtype {array.dtype} were given, but integers were expected; "
            "pass int64 tensors or arrays."
        )
    if array.dtype == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(
            f"index {int(array.max())} was given, but at most 4294967295 was expected."
        )
    return np.ascontiguousarray(array, dtype=np.int64)
