"""Threshold policies: `(cosine, score, ...) -> (τ, w)` per pair, all detached (method 3).

`held` `[k]` bool says which slots hold a pair, where some may be empty: means are over these.
"""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLED_PAIRS = 100_000


def fixed(threshold: float, cosine: Tensor) -> tuple[Tensor, Tensor]:
    """Returns one threshold for every pair."""
    return torch.full_like(cosine, threshold), torch.ones_like(cosine)


def mean_std(cosine: Tensor, held: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean + standard deviation of the selected pairs' own cosines."""
    return torch.full_like(cosine, 1.0) * _mean_std(cosine, held), torch.ones_like(cosine)


def mean_std_all(cosine: Tensor, sampled: Tensor) -> tuple[Tensor, Tensor]:
    """Mean + standard deviation of `|cos|` over a fixed random sample of all pairs."""
    return torch.full_like(cosine, 1.0) * _mean_std(sampled.abs()), torch.ones_like(cosine)


def strength(cosine: Tensor, score: Tensor, held: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """No threshold; a pair weighs as much as its share of the mean score."""
    mean = score.mean() if held is None else score.sum() / held.sum().clamp(min=1)
    return torch.zeros_like(cosine), (score / mean.where(mean > 0, 1.0)).to(cosine.dtype)


def strength_threshold(threshold: float, cosine: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
    """Stronger pairs are held to a lower threshold: τ0 (1 - score / max score)."""
    largest = score.max()
    relative = (score / largest.where(largest > 0, 1.0)).to(cosine.dtype)
    return threshold * (1 - relative), torch.ones_like(cosine)


def stability(threshold: float, cosine: Tensor, ema: Tensor) -> tuple[Tensor, Tensor]:
    """A pair weighs as much as its moving average of "selected" against the mean one."""
    return torch.full_like(cosine, threshold), (ema / ema.mean()).to(cosine.dtype)


def sample_pairs(d_sae: int, *, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The fixed sample of `mean_std_all`: `SAMPLED_PAIRS` pairs; all of them, if they are fewer."""
    if d_sae * (d_sae - 1) // 2 <= SAMPLED_PAIRS:
        i, j = torch.triu_indices(d_sae, d_sae, 1)
        return i.to(device), j.to(device)
    generator = torch.Generator().manual_seed(seed)
    i = torch.randint(d_sae, (SAMPLED_PAIRS,), generator=generator)
    j = (i + torch.randint(1, d_sae, (SAMPLED_PAIRS,), generator=generator)) % d_sae
    return i.to(device), j.to(device)


def _mean_std(cosine: Tensor, held: Tensor | None = None) -> Tensor:
    if held is None:
        return cosine.mean() + cosine.std(correction=0)
    n = held.sum().clamp(min=1)
    mean = (cosine * held).sum() / n
    return mean + (((cosine - mean) * held).square().sum() / n).sqrt()
