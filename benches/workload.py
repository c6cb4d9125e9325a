"""The workload: sizes, codes that fire by Zipf's law, activations, decoder rows, pairs."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

# P(feature of rank r) ~ 1 / (r + SHIFT): at the reference size about 370,000 pairs fire together.
SHIFT = 5.0


@dataclass(frozen=True)
class Size:
    """One problem: `d_sae` features of width `d_in`, `l0` of them active in every row."""

    d_sae: int = 16_384
    d_in: int = 768
    batch: int = 1024
    l0: int = 32

    def k(self, fraction: float = 0.001) -> int:
        """Pairs in a fraction of all pairs."""
        return max(1, round(fraction * (self.d_sae * (self.d_sae - 1) // 2)))


REFERENCE = Size()
QUICK = Size(d_sae=512, d_in=32, batch=64, l0=8)


def active(size: Size, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features `[batch, l0]` int64, rising, and their activations, |N(1, .25)|."""
    generator = torch.Generator().manual_seed(seed)
    rank = torch.randperm(size.d_sae, generator=generator)
    rate = 1 / (rank + SHIFT).double()
    draws = torch.rand(size.batch, 4 * size.l0 + 16, generator=generator, dtype=torch.float64)
    drawn = torch.searchsorted(rate.cumsum(0) / rate.sum(), draws).clamp_(max=size.d_sae - 1)
    index = torch.tensor([sorted(_first_distinct(row, size.l0)) for row in drawn.tolist()])
    value = torch.randn(size.batch, size.l0, generator=generator).mul_(0.25).add_(1).abs_()
    return index, value


def _first_distinct(row: list[int], n: int) -> list[int]:
    return list(dict.fromkeys(row))[:n]


def activations(size: Size, *, batches: int, seed: int = 0) -> list[Tensor]:
    """Batches `[batch, d_in]`: sums of random unit directions, one per feature, and noise."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(size.d_sae, size.d_in, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    out = []
    for number in range(batches):
        index, value = active(size, seed=seed + number)
        x = torch.nn.functional.embedding_bag(
            index, directions, per_sample_weights=value, mode="sum"
        )
        out.append(x + 0.02 * torch.randn(x.shape, generator=generator))
    return out


def decoder(size: Size, *, cosine: float = 0.0, seed: int = 0) -> Tensor:
    """Unit rows `[d_sae, d_in]` whose cosines have a mean of `cosine`."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(size.d_sae, size.d_in, generator=generator)
    rows /= rows.norm(dim=1, keepdim=True)
    shared = torch.zeros(size.d_in)
    shared[0] = 1.0
    rows = (1 - cosine) ** 0.5 * rows + cosine**0.5 * shared
    return rows / rows.norm(dim=1, keepdim=True)


def random_pairs(size: Size, k: int, *, seed: int = 0) -> SimpleNamespace:
    """`i < j` and `score`, each `[k]`, of distinct pairs of features in random order."""
    generator = torch.Generator().manual_seed(seed)
    i, j = torch.randint(size.d_sae, (2, k + k // 8 + 64), generator=generator).sort(0).values
    key = (i * size.d_sae + j)[i < j].unique()
    key = key[torch.randperm(len(key), generator=generator)][:k]
    return SimpleNamespace(i=key // size.d_sae, j=key % size.d_sae, score=torch.ones(len(key)))
