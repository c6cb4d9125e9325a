"""The share of the loudest rows: one percent of massive activations may decide every metric.

Loudest are the rows of largest norm. `loud_rows` and `score_share` look at one batch; `QuietRows`
takes in any number of batches and says how an SAE does on all other rows, in the memory of
`2 * LIMIT` rows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

SHARE = 0.01
LIMIT = 1024
"""Rows that `QuietRows` leaves out at most; one percent of 102,400."""
TAKEN_OVER = 0.5
"""Share of the variance in one percent of the rows that is worth a warning."""


@dataclass(frozen=True)
class LoudRows:
    """The loudest one percent of some activations beside all of them.

    Attributes:
        rows: rows measured.
        variance_share: share of the total variance that the loudest rows hold, 0 without any.
        variance_share_permille: the same of the loudest 0.1 %, at least one row.
        norm_median: of all rows.
        norm_max: of all rows.
    """

    rows: int
    variance_share: float
    variance_share_permille: float
    norm_median: float
    norm_max: float

    def as_json(self) -> dict[str, Any]:
        """Plain numbers by name."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"the loudest 1 % of {self.rows:,} rows hold {self.variance_share:.0%} of the variance"
            f", the loudest 0.1 % {self.variance_share_permille:.0%} "
            f"(norm {self.norm_median:.3g} in the median, {self.norm_max:.3g} at most)"
        )


def loudest(x: Tensor) -> Tensor:
    """`[n]` int64, the one percent of rows of `x` `[rows, d_in]` with the largest norm, at least
    one."""
    return norms(x).topk(max(1, round(SHARE * len(x)))).indices


def loud_rows(x: Tensor) -> LoudRows:
    """Returns the share of the loudest rows of `x` `[rows, d_in]`, at least one row."""
    norm = norms(x)
    mean = x.mean(0, dtype=torch.float64)
    parts = [(part.double() - mean).square().sum(1) for part in x.split(4096)]
    squares = torch.cat(parts)
    total = float(squares.sum())
    order = loudest(x)
    few = order[: max(1, round(len(x) / 1000))]
    share, most = (float(squares[o].sum()) / total if total > 0 else 0.0 for o in (order, few))
    return LoudRows(len(x), share, most, float(norm.median()), float(norm.max()))


def norms(x: Tensor) -> Tensor:
    """Returns `[rows]` float64, without a copy of `x` `[rows, d_in]`."""
    return torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)


def score_share(sums: Tensor, squares: Tensor, loud: Tensor) -> float | None:
    """Returns the share of all coactivation `sum over pairs of f_i * f_j` that some rows hold.

    Args:
        sums: `[rows]` float64, the sum of each row's code.
        squares: `[rows]` float64, the sum of its squares.
        loud: `[n]` int64, those rows.

    Returns:
        None where no two features fire together.
    """
    score = ((sums.square() - squares) / 2).clamp_min_(0)
    total = float(score.sum())
    return float(score[loud].sum()) / total if total > 0 else None


class Moments:
    """Number, mean and scatter of rows, over any number of batches.

    Attributes:
        rows: rows seen so far.
        mean: `[d_in]` float64 on CPU.
        scatter: sum of squared distances to the mean of the rows so far.
    """

    def __init__(self, d_in: int) -> None:
        self.rows = 0
        self.mean = torch.zeros(d_in, dtype=torch.float64)
        self.scatter = 0.0

    def add(self, x: Tensor) -> None:
        """Take in `x` `[rows, d_in]` float64, at least one row."""
        # Merging means and scatters (Chan, Golub and LeVeque 1983) has none of the cancellation
        # of E[x^2] - E[x]^2, which destroys the variance of data that is far from the origin.
        count, mean = len(x), x.mean(0)
        shift = mean.cpu() - self.mean
        total = self.rows + count
        self.scatter += (x - mean).square().sum().item()
        self.scatter += shift.square().sum().item() * self.rows * count / total
        self.mean += shift * (count / total)
        self.rows = total

    def varied(self) -> bool:
        """Returns whether the scatter is more than rounding errors of the mean."""
        return self.scatter > self.rows * (1e-12 * self.mean.norm().item()) ** 2

    def copy(self) -> Moments:
        """Returns a copy that can be added to without changing this one."""
        other = Moments(len(self.mean))
        other.rows, other.mean, other.scatter = self.rows, self.mean.clone(), self.scatter
        return other


class QuietRows:
    """Explained variance of all rows but the loudest one percent, and the share of those."""

    def __init__(self, d_in: int) -> None:
        self._quiet = Moments(d_in)
        self._error = 0.0  # of the rows in `_quiet`
        self._score = 0.0
        self._held: list[tuple[Tensor, Tensor]] = []
        self._rows_held = 0

    def add(self, x: Tensor, error: Tensor, sums: Tensor, squares: Tensor) -> None:
        """Take in one batch.

        Args:
            x: `[rows, d_in]` float64.
            error: `[rows]` float64, squared error of each.
            sums: `[rows]` float64, the sum of each row's code; `squares` that of its squares.
        """
        score = ((sums.square() - squares) / 2).clamp_min_(0)
        self._held.append((x, torch.stack([norms(x), error, score])))
        self._rows_held += len(x)
        if self._rows_held > 2 * LIMIT:
            x, numbers = self._ordered()
            self._keep(x[:LIMIT].clone(), numbers[:, :LIMIT].clone())
            self._error += numbers[1, LIMIT:].sum().item()
            self._score += numbers[2, LIMIT:].sum().item()
            self._quiet.add(x[LIMIT:])

    def result(self, all_rows: Moments) -> dict[str, float | None]:
        """`explained_variance_quiet_rows`, `variance_share_top_rows`, `score_share_top_rows`.

        Args:
            all_rows: of the same rows.

        Returns:
            Metrics without, and of, the loudest one percent of the rows: at least one and at most
            `LIMIT`. None where one is not defined.
        """
        x, numbers = self._ordered()
        self._keep(x, numbers)
        count = min(max(1, round(SHARE * all_rows.rows)), LIMIT)
        quiet = self._quiet.copy()
        if len(x) > count:
            quiet.add(x[count:])
        error = self._error + numbers[1, count:].sum().item()
        loud = (x[:count] - all_rows.mean.to(x.device)).square().sum().item()
        score = numbers[2].sum().item() + self._score
        return {
            "explained_variance_quiet_rows": 1 - error / quiet.scatter if quiet.varied() else None,
            "variance_share_top_rows": loud / all_rows.scatter if all_rows.varied() else None,
            "score_share_top_rows": numbers[2, :count].sum().item() / score if score > 0 else None,
        }

    def _ordered(self) -> tuple[Tensor, Tensor]:
        """Returns the rows that are kept, the loudest first."""
        x = torch.cat([x for x, _ in self._held])
        numbers = torch.cat([n for _, n in self._held], dim=1)
        order = numbers[0].argsort(descending=True, stable=True)
        return x[order], numbers[:, order]

    def _keep(self, x: Tensor, numbers: Tensor) -> None:
        self._held, self._rows_held = [(x, numbers)], len(x)
