"""The definition, in thirty obvious lines: the score of every pair in float64, rounded once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def scores(criterion: str, acts: Array, W_dec: Array | None, min_support: int) -> Array:
    """`[d_sae, d_sae]` float64 scores; only i < j is read."""
    f = acts.astype(np.float64)
    coactivation = np.zeros((f.shape[1], f.shape[1]))
    for row in f:
        coactivation += np.outer(row, row)
    if criterion == "coactivation":
        return coactivation
    if criterion == "correlation":
        centred = f - f.mean(0)
        std = f.std(0)
        constant = std <= 1e-12 * f.mean(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            r = (centred.T @ centred) / len(f) / np.outer(std, std)
        r[constant, :] = r[:, constant] = 0
        count = (f > 0).sum(0)
        r[np.minimum.outer(count, count) < min_support] = 0
        return np.maximum(np.nan_to_num(r), 0)
    assert W_dec is not None
    norm = np.linalg.norm(W_dec.astype(np.float64), axis=1)
    rows = W_dec.astype(np.float64) / np.where(norm > 0, norm, np.inf)[:, None]
    cosine = np.maximum(rows @ rows.T, 0)
    return np.where(coactivation > 0, cosine, 0) if criterion == "coactive-cosine" else cosine


def select(score: Array, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """The k best pairs with a positive float32 score, ties to the smaller (i, j)."""
    i, j = np.triu_indices(len(score), 1)
    value = score[i, j].astype(np.float32)
    order = [p for p in np.lexsort((j, i, -value)) if value[p] > 0][:k]
    return i[order], j[order], value[order]
