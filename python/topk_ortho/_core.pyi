"""The compiled core: exact top-k selection of feature pairs, the penalty on their overlap, and a
bounded history of selections.

A pair is two features ``i < j``, given as two int64 columns of equal length with
``0 <= i < j < 2**32``. Arrays must have exactly the dtype that is stated and one dimension; strided
and read-only ones are accepted. Anything else is a ``TypeError`` (wrong type or dtype) or a
``ValueError`` (wrong value), and an answer of hundreds of megabytes or more that the machine has no
memory for a ``MemoryError``, before it is begun. Each says what was given, what was expected and
what to do, and leaves the object unchanged. Objects may be shared by any number of threads; the GIL
is released while they work, and an array must not be written to by another thread while a call
reads it. What is written to (``out``) shares no memory with what is read.
"""

from typing import TypedDict, final, type_check_only

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Coactivation",
    "PairHistory",
    "TopK",
    "dense_entries",
    "pair_cosines",
    "pair_gradient",
    "pair_penalty",
    "row_norms",
    "top_entries",
    "top_products",
]

@type_check_only
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

@type_check_only
class Lifetimes(TypedDict):
    """Streaks that ended, by their length in observations."""

    bins: list[int]
    """Smallest length of each bin: 1, 2, 4, ..., 2**31."""
    counts: list[int]
    unknown: int
    """Streaks that ended after their record had been evicted."""

@type_check_only
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
        """Offers one block of candidates; scores are finite and not negative.

        Indices are read where a score may win, and nowhere else: an entry that is no pair is not
        seen when its score is below the k-th best.
        """

    def threshold(self) -> float | None:
        """The k-th best score so far once k candidates are held, else None.

        A candidate with a smaller score can be discarded; one with an equal score may still win.
        """

    def finish(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """(i, j, score), best first, ties to the smaller pair. The selector is empty afterwards."""

    def __len__(self) -> int:
        """Candidates held, at most k."""

def dense_entries(
    acts: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """(crow, row, col, value) of what is not 0 in ``acts`` [batch, d_sae], d_sae 1 or more.

    ``crow``, ``col`` and ``value`` are the CSR matrix, ``row`` is the row of each entry. Values are
    not looked at: a negative one is an entry, and so is NaN.
    """

def top_entries(
    activation: NDArray[np.float32], feature: NDArray[np.int64], d_sae: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The same of the k features of each row, in any order, k 1 or more.

    ``activation`` is [batch, k], ``feature`` [batch * k] in its order, every feature of a row once
    and, where its activation is not 0, below ``d_sae``.
    """

def top_products(
    m: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The k pairs with the largest ``float32(float64(m[i]) * float64(m[j]))``, best first.

    As (i, j, score). Ties go to the smaller pair; only positive scores count, so there may be fewer
    than k. ``m`` is finite and not negative. Takes O(n log n + k log k) time and O(n + k) memory
    however many ties there are.
    """

@final
class Coactivation:
    """Pairs of features that fire together, from a batch of sparse codes.

    Codes are the columns of a CSR matrix: ``crow`` int64 [batch + 1], ``col`` int64 or uint32 [nnz]
    rising within each row, ``value`` float32 or float64 [nnz]. The sum of a pair is
    ``sum_b v_bi * v_bj`` in float64, its products added in the order of the rows; its score is the
    sum rounded once to float32. Buffers, and a guess at the next k-th best score, are kept from
    call to call; no answer depends on them, nor on the number of threads (one unless given, and at
    most 256).
    """

    def __new__(cls, *, threads: int | None = None) -> Coactivation: ...
    def select(
        self,
        crow: NDArray[np.int64],
        col: NDArray[np.int64] | NDArray[np.uint32],
        value: NDArray[np.float32] | NDArray[np.float64],
        d_sae: int,
        k: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], int]:
        """(i, j, score, positive): the k best, best first, ties to the smaller pair.

        ``positive`` is the number of pairs with a positive score; there may be fewer than k, since
        scores of zero are never selected. A score that is negative or not finite is an error that
        names the pair.
        """

    def select_cosine(
        self,
        crow: NDArray[np.int64],
        col: NDArray[np.int64] | NDArray[np.uint32],
        value: NDArray[np.float32] | NDArray[np.float64],
        rows: NDArray[np.float32],
        k: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], int]:
        """As ``select``, by ``max(cos, 0)`` of the rows [d_sae, width] of pairs that fire together.

        Cosines are computed in float64 and rounded once to float32; a row of zeros has cosine 0.
        """

    def pairs(
        self,
        crow: NDArray[np.int64],
        col: NDArray[np.int64] | NDArray[np.uint32],
        value: NDArray[np.float32] | NDArray[np.float64],
        d_sae: int,
        first: int,
        last: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """(i, j, sum) of all pairs that fire together with ``first <= i < last``, in pair order."""

    def blocks(
        self,
        crow: NDArray[np.int64],
        col: NDArray[np.int64] | NDArray[np.uint32],
        d_sae: int,
        most_pairs: int,
    ) -> list[int]:
        """Ends of runs of features, for ``pairs``: the first starts at 0, the last ends at d_sae.

        Each run has at most ``most_pairs`` pairs, at 24 bytes a pair, unless it is one feature.
        """

    @property
    def bytes(self) -> int:
        """Memory held between calls."""

def row_norms(rows: NDArray[np.float32], *, threads: int | None = None) -> NDArray[np.float32]:
    """[n] Euclidean norms of ``rows`` [n, width], of any scale; one thread unless given."""

def pair_cosines(
    rows: NDArray[np.float32],
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    *,
    norms: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """[k] ``<rows[i], rows[j]>``, divided by both norms where they are given (0 where one is 0).

    Norms are what ``row_norms`` gives, and with them the scale of a row has no effect, also where
    its square is beyond float32. Indices come in any order. Sums are float32, the same bits on any
    number of threads (one unless given).
    """

def pair_gradient(
    rows: NDArray[np.float32],
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    slope: NDArray[np.float32],
    moves_i: NDArray[np.bool_],
    moves_j: NDArray[np.bool_],
    *,
    norms: NDArray[np.float32] | None = None,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """The gradient of ``sum(slope * pair_cosines(rows, i, j, norms=norms))``, written to ``out``.

    Only rows whose side moves get one, all others 0. With norms it is the gradient to the rows as
    they are, of any length: the part along the row is gone; it is infinite where it is beyond
    float32. ``out`` [n, width] is contiguous, is a new array unless given, and is returned. Pairs
    whose slope is 0 cost nothing. The same bits on any number of threads (one unless given).
    """

def pair_penalty(
    rows: NDArray[np.float32],
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    tau: NDArray[np.float32],
    weight: NDArray[np.float32],
    i_is_child: NDArray[np.bool_],
    *,
    both_signs: bool = False,
    norms: NDArray[np.float32] | None = None,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> tuple[float, NDArray[np.float32]]:
    """``sum(weight * max(overlap - tau, 0) ** 2)``, and its gradient written to ``out``.

    The overlap is what ``pair_cosines`` gives, or its absolute value. Only the child of a pair
    moves: its row alone gets a gradient, with ``norms`` and ``out`` as for ``pair_gradient``. The
    same bits on any number of threads (one unless given).
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
