"""What a criterion ranks by, for pairs that fire together.

Every criterion of `COACTIVE` is a sum over the batch of a product of two values, `Σ_b v_bi v_bj`,
turned into a score. `value` says what is multiplied on the active entries, `score` looks at the
batch once and returns a function `(i, j, sums) -> score`, all in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from topk_ortho.constraint.criteria.evidence import Evidence

Score = Callable[[Tensor, Tensor, Tensor], Tensor]

# A column whose standard deviation is below this share of its mean is constant in float64.
CONSTANT = 1e-12


@dataclass(frozen=True)
class Coactive:
    """One criterion over pairs that fire together.

    Attributes:
        value: `[nnz]`, what is multiplied.
        score: from sums to scores.
        supported: whether pairs of rarely firing features are left out (`min_support`).
    """

    value: Callable[[Evidence], Tensor]
    score: Callable[[Evidence], Score]
    supported: bool = False


def activation(e: Evidence) -> Tensor:
    """The activations themselves."""
    return e.codes.value


def one(e: Evidence) -> Tensor:
    """Ones: sums become counts."""
    return torch.ones_like(e.codes.value)


def gradient(e: Evidence) -> Tensor:
    """`|dL_rec/df|`."""
    return e.entry_gradient.abs()


def attribution(e: Evidence) -> Tensor:
    """`|f dL_rec/df|`, divided by the batch's largest."""
    value = (e.codes.value.double() * e.entry_gradient.double()).abs()
    largest = value.max() if value.numel() else value.new_ones(())
    return value / torch.where(largest > 0, largest, 1.0)


def the_sum(e: Evidence) -> Score:
    """The sum as it is."""
    return lambda i, j, sums: sums


def column_cosine(e: Evidence) -> Score:
    """The sum divided by the two column norms."""
    norm = e.codes.column_sums(e.codes.value.double() ** 2).sqrt()
    return lambda i, j, sums: sums / (norm[i] * norm[j])


def correlation(e: Evidence) -> Score:
    """Pearson correlation over the batch from sparse moments; negative or undefined is 0."""
    codes, value = e.codes, e.codes.value.double()
    mean = codes.column_sums(value) / codes.batch
    spread = codes.column_sums((value - mean[codes.col]) ** 2)
    silent = codes.batch - codes.counts().double()
    std = ((spread + silent * mean**2) / codes.batch).sqrt()
    std = torch.where(std > CONSTANT * mean, std, torch.inf)

    def score(i: Tensor, j: Tensor, sums: Tensor) -> Tensor:
        return ((sums / codes.batch - mean[i] * mean[j]) / (std[i] * std[j])).clamp(min=0)

    return score


def conditional(e: Evidence) -> Score:
    """`max(P(i on | j on), P(j on | i on))` from counts."""
    count = e.codes.counts().double()
    return lambda i, j, sums: sums / torch.minimum(count[i], count[j])


def decoder_cosine(e: Evidence) -> Score:
    """`max(cos_ij, 0)` of the decoder rows."""
    cosine = e.decoder
    return lambda i, j, sums: cosine(i, j).clamp(min=0)


COACTIVE: dict[str, Coactive] = {
    "coactivation": Coactive(activation, the_sum),
    "coactivation-cosine": Coactive(activation, column_cosine, supported=True),
    "correlation": Coactive(activation, correlation, supported=True),
    "conditional": Coactive(one, conditional, supported=True),
    "gradient": Coactive(gradient, the_sum),
    "gradient-batchwise": Coactive(attribution, the_sum),
    "coactive-cosine": Coactive(one, decoder_cosine),
}


def mean_activation(e: Evidence) -> Tensor:
    """`[d_sae]` float32, the vector of `magnitude`."""
    return (e.codes.column_sums(e.codes.value.double()) / max(1, e.codes.batch)).float()


def relative_energy(e: Evidence) -> Tensor:
    """`[d_sae]` float32, the vector of `gradient-accumulated`: root energy over the largest."""
    root = e.need("energy", (e.codes.d_sae,)).double().sqrt()
    return (root / root.max().clamp_min(torch.finfo(torch.float64).tiny)).float()


PRODUCT: dict[str, Callable[[Evidence], Tensor]] = {
    "magnitude": mean_activation,
    "gradient-accumulated": relative_energy,
}
