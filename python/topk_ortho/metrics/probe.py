"""Linear probes: a model represents a class if its probe beats those of random classes.

A small model represents hardly more than which token it reads, and that is enough for a probe
to tell almost any set of tokens from the others. So a plain threshold on its F1 passes sets that
mean nothing, and what counts here is to be better than random sets of the same size and frequency.

`LinearProbe` factorises the scatter of the activations once, `rows * d_in²`; a class costs one pass
over the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RIDGE = 1e-6
"""Added to the variance of each standardised dimension, so that constant ones do no harm."""
_ROWS = 8192  # converted to float64 at once


class LinearProbe:
    """Fisher's linear discriminant, fit on some rows and scored on others.

    It is least squares on the class's indicator, with dimensions standardised by the training rows:
    exact, without steps or a rate to choose, so that every class gets the same probe. A row is
    called positive from the score on that gives the largest F1 on the training rows.

    Args:
        train: `[rows, d_in]`.
        test: `[rows, d_in]`, the held-out rows.

    Raises:
        ValueError: no row, widths that differ, or a value that is not finite.
    """

    def __init__(self, train: Tensor, test: Tensor) -> None:
        if not (len(train) and len(test)) or train.shape[1:] != test.shape[1:]:
            raise ValueError(
                f"training rows {tuple(train.shape)} and held-out rows {tuple(test.shape)} were "
                "given, but some of each, of one width, were expected"
            )
        if not bool(train.isfinite().all() and test.isfinite().all()):
            raise ValueError("the activations hold a value that is not finite; check the model")
        mean = train.mean(0)
        spread = (train - mean).square().mean(0).sqrt()
        spread = torch.where(spread > 0, spread, 1.0)
        self._train, self._test = ((x - mean) / spread for x in (train, test))
        scatter = RIDGE * len(train) * torch.eye(train.shape[1], dtype=torch.float64)
        scatter = scatter.to(train.device)
        for part in self._train.split(_ROWS):
            scatter += part.double().T @ part.double()
        self._factor = torch.linalg.cholesky(scatter)

    def f1(self, train_on: Tensor, test_on: Tensor) -> float:
        """F1 on the held-out rows of a probe for one class.

        Args:
            train_on: `[rows]` bool, the class on the training rows.
            test_on: the same on the held-out rows.

        Returns:
            0 where the probe and the class have no row in common.
        """
        train_on, test_on = train_on.to(self._train.device), test_on.to(self._test.device)
        weight = self._fit(train_on)
        threshold = _best_threshold(self._train @ weight, train_on)
        called = self._test @ weight >= threshold
        both = int((called & test_on).sum())
        return 2 * both / max(1, int(called.sum()) + int(test_on.sum()))

    def _fit(self, on: Tensor) -> Tensor:
        # The rows have mean 0, so that the indicator's mean changes nothing but the threshold.
        sums = self._train[on].sum(0, dtype=torch.float64)
        weight = torch.cholesky_solve(sums[:, None], self._factor)[:, 0]
        return (weight / weight.norm().clamp_min(1e-300)).to(self._train.dtype)


def _best_threshold(score: Tensor, on: Tensor) -> Tensor:
    """The score from which on calling rows positive gives the largest F1."""
    ordered, order = score.sort(descending=True, stable=True)
    hits = on[order].cumsum(0)
    called = torch.arange(1, len(on) + 1, device=on.device)
    f1 = 2 * hits / (called + on.sum())
    # Rows of equal score are called together.
    last = torch.ones_like(on)
    last[:-1] = ordered[1:] < ordered[:-1]
    return ordered[f1.masked_fill(~last, -1.0).argmax()]


def beats(f1: float, random: Sequence[float]) -> bool:
    """Returns whether `f1` is above that of every random class.

    A class that is itself drawn at random passes once in `len(random) + 1`, so 19 draws make a
    test at the level .05.
    """
    return bool(random) and f1 > max(random)
