"""One pass of every architecture in numpy float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def pre_acts(x: Array, W: dict[str, Array]) -> Array:
    return (x - W["b_dec"]) @ W["W_enc"] + W["b_enc"]


def relu(pre: Array) -> Array:
    return np.maximum(pre, 0)


def jumprelu(pre: Array, threshold: Array) -> Array:
    return np.where(pre > threshold, pre, 0)


def topk(pre: Array, k: int) -> Array:
    acts = np.zeros_like(pre)
    for row, out in zip(pre, acts, strict=True):
        for f in np.argsort(-row)[:k]:
            out[f] = max(row[f], 0)
    return acts


def batch_topk(pre: Array, k: float) -> Array:
    acts = np.zeros(pre.size)
    for at in np.argsort(-pre, axis=None)[: round(k * len(pre))]:
        acts[at] = max(pre.flat[at], 0)
    return acts.reshape(pre.shape)


def decode(acts: Array, W: dict[str, Array], *, features: int) -> Array:
    """From the first `features` alone."""
    x_hat = np.tile(W["b_dec"], (len(acts), 1))
    for row, out in zip(acts, x_hat, strict=True):
        for f in range(features):
            out += row[f] * W["W_dec"][f]
    return x_hat
