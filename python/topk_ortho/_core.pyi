"""The compiled core: exact top-k selection of feature pairs, and a bounded history of selections.

A pair is two features ``i < j``, given as two int64 columns of equal length with
``0 <= i < j < 2**32``. Arrays must have exactly the dtype that is stated and one dimension; strided
and read-only ones are accepted. Anything else is a ``TypeError`` (wrong type or dtype) or a
``ValueError`` (wrong value), which says what was given, what was expected and what to do, and
leaves the object unchanged. Objects may be shared by any number of threads; the GIL is released
while they work, and an array must not be written to by another thread while a call reads it.
"""

from typing import TypedDict, final

import numpy as np
from numpy.typing import NDArray

class Observed(TypedDict):
    """The latest observation, compared with the one before it."""

    step: int
    size: int
    """Pairs in the selection."""
    jaccard: float | None
    """Intersection over union with the selection before; 1.0 if both are empty, None at first."""
    entered: int
    left: int
    kept: int
    mean_ema: float
    """Mean lower end of the selected pairs' averages, this observation counted; 0.0 for none."""
    stable_share: float
    """Share of the selected pairs whose lower end is above 0.5; 0.0 if there are none."""

class Lifetimes(TypedDict):
    """Streaks that ended, by their length in observations."""

    bins: list[int]
    """Smallest length of each bin: 1, 2, 4, ..., 2**31."""
    counts: list[int]
    unknown: int
    """Streaks that ended after their record had been evicted."""

class Stability(TypedDict):
    """How stable the selection has been over the run."""

    observations: int
    last_step: int | None
    last: Observed | None
    mean_jaccard: float | None
    """Mean from the second observation on."""
    survival: dict[int, tuple[int, int]]
    """Lag in observations (1, 2, 4, ..., 1024) to (pairs still selected, pairs anchored)."""
    lifetimes: Lifetimes

@final
class TopK:
    """The k best of any number of candidates, ties to the smaller pair, however they are blocked.

    Scores of zero are never selected. A pair pushed twice is two candidates.
    """

    def __new__(cls, k: int) -> TopK: ...
    def push(self, i: NDArray[np.int64], j: NDArray[np.int64], score: NDArray[np.float32]) -> None:
        """Offers one block of candidates; scores are finite and not negative."""

    def threshold(self) -> float | None:
        """The k-th best score so far once k candidates are held, else None.

        A candidate with a smaller score can be discarded; one with an equal score may still win.
        """

    def finish(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """(i, j, score), best first, ties to the smaller pair. The selector is empty afterwards."""

    def __len__(self) -> int:
        """Candidates held, at most k."""

def top_products(
    m: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The k pairs with the largest ``float32(float64(m[i]) * float64(m[j]))``, best first.

    As (i, j, score). Ties go to the smaller pair; only positive scores count, so there may be fewer
    than k. ``m`` is finite and not negative. Takes O(n log n + k log k) time and O(n + k) memory
    however many ties there are.
    """

@final
class PairHistory:
    """How often each pair was selected, lately: a moving average per pair in bounded memory.

    With k the largest selection so far, every pair whose average exceeds ``k / capacity`` is in the
    table, every average is within [ema_low, ema_high], and ``ema_high - ema_low <= k / capacity``.
    """

    def __new__(cls, *, capacity: int, decay: float) -> PairHistory: ...
    def observe(self, step: int, i: NDArray[np.int64], j: NDArray[np.int64]) -> None:
        """Takes one selection of distinct pairs, in any order, or none. Steps must increase."""

    def ema(self, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.float64]:
        """Lower end of each pair's average as of now; 0.0 for a pair that is not in the table."""

    def top(
        self, n: int
    ) -> tuple[
        NDArray[np.int64],
        NDArray[np.int64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.int64],
        NDArray[np.int64],
        NDArray[np.int64],
        NDArray[np.int64],
        NDArray[np.int64],
    ]:
        """The n records with the largest lower end, ties to the smaller pair.

        Columns: i, j, ema_low, ema_high, hits, first_seen, last_seen (steps), streak (0 unless in
        the latest selection), longest_streak. Hits, first_seen and streaks count from when the pair
        last entered the table.
        """

    def stability(self) -> Stability:
        """How stable the selection has been."""

    def hubs(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(feature, degree) of the n features in most pairs of the latest selection.

        Ties go to the smaller feature.
        """

    def to_bytes(self) -> bytes:
        """Everything that exact continuation needs: versioned, checksummed, deterministic."""

    @staticmethod
    def from_bytes(data: bytes) -> PairHistory:
        """The history that to_bytes wrote; ValueError for truncated, damaged or other bytes."""

    def __len__(self) -> int:
        """Records held: at most 1.25 * capacity."""

    @property
    def capacity(self) -> int: ...
    @property
    def decay(self) -> float: ...
    @property
    def observations(self) -> int: ...
    @property
    def last_step(self) -> int | None: ...
    @property
    def max_error(self) -> float:
        """No pair outside the table has a larger average now, and no record a larger error."""

    @property
    def bytes(self) -> int:
        """Memory held."""
