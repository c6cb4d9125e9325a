"""The penalty by its definition (method 3): one pair after the other, in numpy float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def cosine(W: Array, i: int, j: int) -> float:
    """0 for a zero row."""
    norms = np.linalg.norm(W[i]) * np.linalg.norm(W[j])
    return float(W[i] @ W[j] / norms) if norms > 0 else 0.0


def mean_plus_std(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return mean + (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5


def taus_and_weights(
    tau: str, threshold: float, overlap: list[float], score: Array, ema: Array, sampled: list[float]
) -> list[tuple[float, float]]:
    """`(τ, w)` of every pair."""
    n = len(overlap)
    if tau == "mean-std":
        return [(mean_plus_std(overlap), 1.0)] * n
    if tau == "mean-std-all":
        return [(mean_plus_std([abs(c) for c in sampled]), 1.0)] * n
    if tau == "strength":
        return [(0.0, s / (sum(score) / n)) for s in score]
    if tau == "strength-threshold":
        return [(threshold * (1 - s / max(score)), 1.0) for s in score]
    if tau == "stability":
        return [(threshold, e / (sum(ema) / n)) for e in ema]
    return [(threshold, 1.0)] * n


def penalty(
    W: Array,
    pairs: list[tuple[int, int]],
    *,
    tau: str,
    threshold: float,
    sign: str,
    n: str,
    score: Array,
    ema: Array,
    sample: list[tuple[int, int]],
) -> float:
    overlap = [cosine(W, i, j) for i, j in pairs]
    if sign == "both":
        overlap = [abs(c) for c in overlap]
    sampled = [cosine(W, i, j) for i, j in sample]
    total = 0.0
    for c, (t, w) in zip(
        overlap, taus_and_weights(tau, threshold, overlap, score, ema, sampled), strict=True
    ):
        total += w * max(c - t, 0.0) ** 2
    return total / (len(W) if n == "d-sae" else len(pairs))


def differentiable(
    W: Tensor,
    pairs: list[tuple[int, int]],
    price: Callable[[list[float]], list[tuple[float, float]]],
    *,
    sign: str,
    anchored: Callable[[int, int], int | None],
    divide_by: int,
) -> Tensor:
    """The same for autograd; `anchored(i, j)` is the feature of the pair that stands still."""
    cosines = []
    for i, j in pairs:
        stays = anchored(i, j)
        a, b = (W[f].detach() if f == stays else W[f] for f in (i, j))
        c = F.cosine_similarity(a, b, dim=0)
        cosines.append(c.abs() if sign == "both" else c)
    total = W.sum() * 0.0
    for c, (t, w) in zip(cosines, price([float(c.detach()) for c in cosines]), strict=True):
        total = total + w * torch.relu(c - t) ** 2
    return total / divide_by
