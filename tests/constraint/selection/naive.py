"""The definition, in obvious lines: the score of every pair in float64, rounded once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def gram(values: Array) -> Array:
    """Products added row by row."""
    total = np.zeros((values.shape[1], values.shape[1]))
    for row in values:
        total += np.outer(row, row)
    return total


def cosine(rows: Array) -> Array:
    norm = np.linalg.norm(rows, axis=1)
    unit = rows / np.where(norm > 0, norm, np.inf)[:, None]
    return unit @ unit.T


def pearson(f: Array) -> Array:
    centred, std = f - f.mean(0), f.std(0)
    constant = std <= 1e-12 * f.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (centred.T @ centred) / len(f) / np.outer(std, std)
    r[constant, :] = r[:, constant] = 0
    return np.maximum(np.nan_to_num(r), 0)


def supported(score: Array, f: Array, min_support: int) -> Array:
    count = (f > 0).sum(0)
    return np.where(np.minimum.outer(count, count) >= min_support, score, 0)


def scores(criterion: str, e: Mapping[str, NDArray], min_support: int) -> Array:
    """`[d_sae, d_sae]` float64 scores; only i < j is read. `e` holds `acts` and the evidence."""
    e = {name: value.astype(np.float64) for name, value in e.items()}
    f = e["acts"]
    on = f > 0
    d = cosine(e["W_dec"])
    with np.errstate(invalid="ignore", divide="ignore"):
        match criterion:
            case "coactivation":
                return gram(f)
            case "row-coactivation":
                norm = np.sqrt(np.cumsum(f**2, axis=1)[:, -1:])  # added feature by feature
                return gram(np.nan_to_num(f / norm))
            case "coactivation-cosine":
                norm = np.sqrt((f**2).sum(0))
                return supported(np.nan_to_num(gram(f) / np.outer(norm, norm)), f, min_support)
            case "correlation":
                return supported(pearson(f), f, min_support)
            case "conditional":
                both, count = gram(on.astype(float)), on.sum(0).astype(float)
                p = np.maximum(both / count[:, None], both / count[None, :])
                return supported(np.nan_to_num(p), f, min_support)
            case "gradient":
                return gram(np.abs(e["gradient"]) * on)
            case "gradient-batchwise":
                g = np.abs(f * e["gradient"])
                return gram(g / g.max())
            case "gradient-accumulated":
                s = np.sqrt(e["energy"])
                s = (s / s.max()).astype(np.float32).astype(np.float64)
                return np.outer(s, s)
            case "magnitude":
                m = f.mean(0).astype(np.float32).astype(np.float64)
                return np.outer(m, m)
            case "coactive-cosine":
                return np.where(gram(on.astype(float)) > 0, np.maximum(d, 0), 0)
            case "decoder-cosine":
                return np.maximum(d, 0)
            case "sign-discrepancy":
                return np.maximum(d, 0) * np.maximum(-cosine(e["W_enc"].T), 0)
            case "preactivation":
                return gram(np.maximum(e["pre"], 0))
    rows = e["W_dec"] / np.linalg.norm(e["W_dec"], axis=1, keepdims=True)
    p = e["x"] @ rows.T
    theta = e["threshold"]
    if criterion == "decoder-projection":
        one_way = np.maximum(p - theta, 0).T @ f
        return np.maximum(one_way, one_way.T)
    assert criterion == "suppressed"
    one_way = np.maximum(p * (p > theta) * ~on, 0).T @ f
    return np.maximum(d, 0) * np.maximum(one_way, one_way.T)


def select(score: Array, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """The k best pairs with a positive float32 score, ties to the smaller (i, j)."""
    i, j = np.triu_indices(len(score), 1)
    value = score[i, j].astype(np.float32)
    order = [p for p in np.lexsort((j, i, -value)) if value[p] > 0][:k]
    return i[order], j[order], value[order]
