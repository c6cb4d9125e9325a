"""Criteria that have no sparse form: all pairs, tile by tile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from topk_ortho.constraint.criteria.criterion import AllPairs, Criterion, Tiles

if TYPE_CHECKING:
    from torch import Tensor

    from topk_ortho.constraint.criteria.inputs import SelectorInputs


def decoder_cosine(e: SelectorInputs) -> Tiles:
    """`max(cos_ij, 0)`."""
    decoder = e.decoder
    return Tiles(
        tile=lambda rows, columns: (
            decoder.approximate_rows(rows) @ decoder.approximate_rows(columns).T
        ),
        width=decoder.W.shape[1],
        exact=decoder,
        bound=decoder.dot_error,
    )


def sign_discrepancy(e: SelectorInputs) -> Tiles:
    """`relu(cos(d_i, d_j)) * relu(-cos(e_i, e_j))`: decoders overlap while encoders part."""
    decoder, encoder = e.decoder, e.encoder

    def tile(rows: slice, columns: slice) -> Tensor:
        together = decoder.unit_rows(rows) @ decoder.unit_rows(columns).T
        apart = encoder.unit_rows(rows) @ encoder.unit_rows(columns).T
        return together.relu_().mul_(apart.neg_().relu_())

    # Most cells are exactly 0, which no float32 filter can tell from nearly 0.
    return Tiles(tile, 4 * decoder.W.shape[1])


def preactivation(e: SelectorInputs) -> Tiles:
    """`Σ_b relu(pre_bi) relu(pre_bj)`."""
    pre = e.need("pre", (e.codes.batch, e.codes.d_sae))

    def take(span: slice) -> Tensor:
        return pre[:, span].relu().double()

    return Tiles(lambda rows, columns: take(rows).T @ take(columns), 2 * e.codes.batch)


def decoder_projection(e: SelectorInputs) -> Tiles:
    """`Σ_b relu(<x_b, d_i> - θ_i) f_bj`, the larger of the two directions."""
    project = _projection(e)
    theta = e.need("threshold", (e.codes.d_sae,)).double()

    def above(span: slice) -> Tensor:
        return (project(span) - theta[span]).relu()

    return _directed(e, above, lambda rows, columns: None)


def suppressed(e: SelectorInputs) -> Tiles:
    """`relu(cos_ij) Σ_b f_bj 1[f_bi = 0] 1[<x_b, d_i> > θ_i] <x_b, d_i>`, the larger direction."""
    project, decoder = _projection(e), e.decoder
    theta = e.need("threshold", (e.codes.d_sae,)).double()

    def silent(span: slice) -> Tensor:
        value = project(span)
        return value * (value > theta[span]) * (e.codes.dense(span) == 0)

    def overlap(rows: slice, columns: slice) -> Tensor:
        return (decoder.unit_rows(rows) @ decoder.unit_rows(columns).T).relu_()

    return _directed(e, silent, overlap)


def _directed(
    e: SelectorInputs,
    side: Callable[[slice], Tensor],
    factor: Callable[[slice, slice], Tensor | None],
) -> Tiles:
    """Tiles of `factor_ij max(Σ_b s_bi f_bj, Σ_b s_bj f_bi)` for `s = side` `[batch, features]`."""

    def tile(rows: slice, columns: slice) -> Tensor:
        forth = side(rows).T @ e.codes.dense(columns).double()
        back = e.codes.dense(rows).double().T @ side(columns)
        score = forth.maximum(back).clamp_(min=0)
        weight = factor(rows, columns)
        return score if weight is None else score * weight

    return Tiles(tile, 6 * e.codes.batch)


def _projection(e: SelectorInputs) -> Callable[[slice], Tensor]:
    """`span -> [batch, features]` float64 projections of x on unit decoder rows."""
    decoder = e.decoder
    x = e.need("x", (e.codes.batch, decoder.W.shape[1])).double()

    def project(span: slice) -> Tensor:
        return x @ decoder.unit_rows(span).T

    return project


RECORDS = (
    Criterion(
        "decoder-cosine",
        "`max(cos_ij, 0)`",
        AllPairs(decoder_cosine),
        required_inputs=frozenset({"W_dec"}),
    ),
    Criterion(
        "sign-discrepancy",
        "`relu(cos(d_i, d_j)) relu(-cos(e_i, e_j))`",
        AllPairs(sign_discrepancy),
        required_inputs=frozenset({"W_dec", "W_enc"}),
    ),
    Criterion(
        "preactivation",
        "`Σ_b relu(pre_bi) relu(pre_bj)`",
        AllPairs(preactivation),
        required_inputs=frozenset({"pre"}),
    ),
    Criterion(
        "decoder-projection",
        "`Σ_b relu(<x_b - b_dec, d_i> - θ_i) f_bj`, the larger of the two directions",
        AllPairs(decoder_projection),
        required_inputs=frozenset({"W_dec", "x", "threshold"}),
    ),
    Criterion(
        "suppressed",
        "`relu(cos_ij) Σ_b f_bj 1[f_bi = 0] 1[p > θ_i] p`, `p = <x_b - b_dec, d_i>`, "
        "larger direction",
        AllPairs(suppressed),
        required_inputs=frozenset({"W_dec", "x", "threshold"}),
    ),
)
