"""The total variance of a host's data, measured from the batches that pass by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from topk_ortho.config import ConfigError
from topk_ortho.distributed.world import ALONE, World

ESTIMATION_ROWS = 32_768  # as many as a run's own scale and variance are measured on


def known(variance: float | None) -> float:
    """Returns a variance that is known.

    Raises:
        ConfigError: it is not.
    """
    if variance is None:
        raise ConfigError(
            "the penalty's coefficient is in units of the data's variance, but no variance was "
            "given or seen; pass target=x with every call, or give "
            'OrthogonalityConfig(variance=...), or PenaltyConfig(units="absolute").'
        )
    return variance


class RunningVariance:
    """Variance summed over dimensions, over all rows so far; fixed after `ESTIMATION_ROWS`.

    Means and squares are summed in float64, so that it does not matter how rows are cut into
    batches.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.value: float | None = None
        self._sum: Tensor | None = None
        self._squares: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the sums so far; nothing before the first row."""
        if self._sum is None or self._squares is None:
            return {}
        return {"rows": self.rows, "sum": self._sum, "squares": self._squares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore sums that `state_dict` returned."""
        self.rows = int(state["rows"])
        self._sum, self._squares = state["sum"], state["squares"]
        self.value = self._total(state["sum"], state["squares"])

    def _total(self, total: Tensor, squares: Tensor) -> float:
        mean = total / self.rows
        return float(squares / self.rows - mean.pow(2).sum())

    @torch.no_grad()
    def update(self, x: Tensor, world: World = ALONE) -> None:
        """Take in `x` `[batch, d]`, and the rows of the other processes.

        Raises:
            ValueError: a number that is not finite; nothing of the batch is taken in.
        """
        if self.rows >= ESTIMATION_ROWS or not (len(x) or world.shared):
            return
        x, rows = x.double(), len(x)
        total, squares = x.sum(0), x.pow(2).sum()
        if world.shared:
            own = torch.cat([total, squares[None], squares.new_tensor([float(rows)])])
            sums = world.add_up_(own, "the variance of the other processes")
            total, squares, rows = sums[:-2], sums[-2], int(sums[-1])
        if not bool(squares.isfinite()):
            raise ValueError(
                "target has a number that is not finite, or too large to be squared, but the "
                "activations that are reconstructed were expected; look at them."
            )
        self._sum = total if self._sum is None else self._sum + total
        self._squares = squares if self._squares is None else self._squares + squares
        self.rows += rows
        self.value = self._total(self._sum, self._squares)
