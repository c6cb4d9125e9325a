"""A line for every feature: how often it fires, its norm, its nearest neighbour, its true feature.

The report draws it from `features.json`, which a run writes at its end. Costs the cosines of all
decoder rows once more, in tiles, and `[n_true, d_sae]` cosines where the truth is known.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from topk_ortho.metrics.matching import cosines
from topk_ortho.sparse.scale import at_safe_scale, row_norms

BINS = 80
"""Of the histogram of cosines, from -1 to 1."""
_TILE = 512  # a side; a megabyte of cosines
_DIGITS = 4


@torch.no_grad()
def feature_table(
    W_enc: Tensor,
    W_dec: Tensor,
    *,
    fired: Tensor,
    rows: int,
    directions: Tensor | None = None,
    sample: int | None = None,
) -> dict[str, Any]:
    """Returns what is known of every feature, as lists in the order of the features.

    Args:
        W_enc: `[d_in, d_sae]`.
        W_dec: `[d_sae, d_out]`.
        fired: `[d_sae]`, on how many of the rows each feature fired.
        rows: rows seen.
        directions: `[n_true, d_out]`, true features where they are known.
        sample: decoder rows, evenly spaced, whose cosines are taken; all when None.

    Returns:
        `rows`; `fired`; `encoder_norm`, of the columns of `W_enc`; `neighbour` and `cosine`, the
        decoder row that is nearest and the cosine with it, None of features outside the sample;
        `true_feature` and `true_cosine`, of the nearest true direction, where they are known; and
        `cosines`, a histogram over the pairs of decoder rows: `edges` and `pairs`.
    """
    near, best, histogram = _neighbours(W_dec, sample)
    table: dict[str, Any] = {
        "rows": rows,
        "fired": fired.tolist(),
        "encoder_norm": _rounded(row_norms(W_enc.T)),
        "neighbour": near,
        "cosine": best,
        "cosines": {"edges": [2 * n / BINS - 1 for n in range(BINS + 1)], "pairs": histogram},
    }
    if directions is not None and len(directions):
        cosine, index = cosines(directions, W_dec).max(0)
        table |= {"true_feature": index.tolist(), "true_cosine": _rounded(cosine)}
    return table


def _neighbours(
    W_dec: Tensor, sample: int | None
) -> tuple[list[int | None], list[float | None], list[int]]:
    """Nearest other row of each, its cosine, and how many pairs have a cosine in each bin."""
    d_sae = len(W_dec)
    unit = torch.nn.functional.normalize(at_safe_scale(W_dec.float())[0], dim=1)
    count = d_sae if sample is None else min(sample, d_sae)
    chosen = torch.arange(count, device=unit.device) * d_sae // max(count, 1)
    near: list[int | None] = [None] * d_sae
    best: list[float | None] = [None] * d_sae
    pairs = torch.zeros(BINS, dtype=torch.int64)
    for index in chosen.split(_TILE):
        nearest = torch.full((len(index),), -math.inf, device=unit.device)
        which = torch.zeros(len(index), dtype=torch.int64, device=unit.device)
        for first in range(0, d_sae, _TILE):
            cosine = unit[index] @ unit[first : first + _TILE].T
            other = torch.arange(first, first + cosine.shape[1], device=unit.device)
            itself = index[:, None] == other
            bins = ((cosine + 1) * (BINS / 2)).long().clamp_(0, BINS - 1)
            pairs += torch.bincount(bins[~itself].cpu(), minlength=BINS)
            value, place = cosine.masked_fill_(itself, -math.inf).max(1)
            which = torch.where(value > nearest, place + first, which)
            nearest = torch.maximum(nearest, value)
        if d_sae > 1:
            rows = index.tolist()
            for row, feature, value in zip(rows, which.tolist(), _rounded(nearest), strict=True):
                near[row], best[row] = feature, value
    # every pair was met from both sides, where all rows were looked at
    counted = pairs // 2 if count == d_sae else pairs
    return near, best, counted.tolist()


def _rounded(values: Tensor) -> list[Any]:
    return [round(value, _DIGITS) for value in values.double().cpu().tolist()]
