"""Criteria over pairs that fire together: sums `Σ_b v_bi v_bj`, turned into scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from topk_ortho.constraint.criteria.criterion import CoactiveSum, Criterion, Score
from topk_ortho.constraint.criteria.quotient import Quotient

if TYPE_CHECKING:
    from torch import Tensor

    from topk_ortho.constraint.criteria.inputs import SelectorInputs
    from topk_ortho.constraint.selection.native import BestPairs, Coactivation

# A column whose standard deviation is below this share of its mean is constant in float64.
CONSTANT = 1e-12


def activation(e: SelectorInputs) -> Tensor:
    """The activations themselves."""
    return e.codes.value


def one(e: SelectorInputs) -> Tensor:
    """Ones: sums become counts."""
    return e.codes.ones()


def of_unit_row(e: SelectorInputs) -> Tensor:
    """The activations divided by the norm of their row's, float64: loud rows count like others."""
    value = e.codes.value.double()
    norm = e.codes.row_sums(value**2).sqrt()[e.codes.row]
    return value / (norm.where(norm > 0, 1.0) if e.codes.silent else norm)


def gradient(e: SelectorInputs) -> Tensor:
    """`|dL_rec/df|`."""
    gradient = e.entry_gradient.abs()
    return gradient.where(e.codes.value > 0, 0.0) if e.codes.silent else gradient


def attribution(e: SelectorInputs) -> Tensor:
    """`|f dL_rec/df|`, divided by the batch's largest."""
    value = (e.codes.value.double() * e.entry_gradient.double()).abs()
    largest = value.max() if value.numel() else value.new_ones(())
    return value / largest.where(largest > 0, 1.0)


def column_cosine(e: SelectorInputs) -> Score:
    """The sum divided by the two column norms."""
    return Quotient(e.codes.column_sums(e.codes.value.double() ** 2).sqrt())


def correlation(e: SelectorInputs) -> Score:
    """Pearson correlation over the batch from sparse moments; negative or undefined is 0."""
    codes, value = e.codes, e.codes.value.double()
    mean = codes.column_sums(value) / codes.batch
    apart = (value - mean[codes.col]) ** 2
    spread = codes.column_sums(apart * (value > 0) if codes.silent else apart)
    silent = codes.batch - codes.counts().double()
    std = ((spread + silent * mean**2) / codes.batch).sqrt()
    std = std.where(std > CONSTANT * mean, math.inf)
    return Quotient(std, mean=mean, n=codes.batch)


def conditional(e: SelectorInputs) -> Score:
    """`max(P(i on | j on), P(j on | i on))` from counts."""
    return Quotient(e.codes.counts().double(), smaller=True)


def decoder_cosine(e: SelectorInputs) -> Score:
    """`max(cos_ij, 0)` of the decoder rows."""
    cosine = e.decoder
    return lambda i, j, sums: cosine(i, j).clamp(min=0)


def _cosines_in_rust(rust: Coactivation, e: SelectorInputs, k: int) -> BestPairs | None:
    W_dec = e.need("W_dec", (e.codes.d_sae, None))
    return rust.best_cosines(e.codes, W_dec, k) if W_dec.dtype.itemsize == 4 else None


RECORDS = (
    Criterion(
        "coactivation",
        "`Σ_b f_bi f_bj`",
        CoactiveSum(activation),
        coefficient=2.0,
    ),
    Criterion(
        "row-coactivation",
        "`Σ_b u_bi u_bj`, `u_b = f_b / |f_b|`: every row counts alike",
        CoactiveSum(of_unit_row),
        coefficient=2.0,
    ),
    Criterion(
        "coactivation-cosine",
        "`Σ_b f_bi f_bj` over the two column norms",
        CoactiveSum(activation, column_cosine, min_support=True),
    ),
    Criterion(
        "correlation",
        "Pearson correlation over the batch, from sparse moments",
        CoactiveSum(activation, correlation, min_support=True),
    ),
    Criterion(
        "conditional",
        "`max(P(i on | j on), P(j on | i on))`",
        CoactiveSum(one, conditional, min_support=True),
    ),
    Criterion(
        "gradient",
        "`Σ_b g_bi g_bj`, `g = |dL_rec/df|` on active entries",
        CoactiveSum(gradient),
        required_inputs=frozenset({"gradient"}),
    ),
    Criterion(
        "gradient-batchwise",
        "`Σ_b g_bi g_bj`, `g = |f dL_rec/df|` over the batch's largest",
        CoactiveSum(attribution),
        required_inputs=frozenset({"gradient"}),
    ),
    Criterion(
        "coactive-cosine",
        "`max(cos_ij, 0)` among pairs that fire together at least once in the batch",
        CoactiveSum(one, decoder_cosine, rust=_cosines_in_rust),
        required_inputs=frozenset({"W_dec"}),
    ),
)
