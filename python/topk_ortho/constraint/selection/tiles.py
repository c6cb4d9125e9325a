"""All pairs, tile by tile: criteria that have no sparse form. The full matrix is never held.

A tile holds the scores of features `rows` with features `columns`. Where its products are float32
they only discard: a pair survives if its approximate score, raised by a stated error bound, could
still win, and survivors are scored again in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from topk_ortho.constraint.criteria.cosine import Cosine
from topk_ortho.constraint.criteria.evidence import Evidence

# Candidates: (i, j, float64 score, number of positive scores in the tile).
Block = tuple[Tensor, Tensor, Tensor, int]


@dataclass(frozen=True)
class Tiles:
    """How the tiles of a criterion are scored.

    Attributes:
        tile: `(rows, columns) -> [rows, columns]`.
        width: elements that one row of a tile costs besides its cells.
        exact: `(i, j) -> float64`, for survivors; None where `tile` is float64 itself.
        bound: largest `|tile - exact|`.
    """

    tile: Callable[[slice, slice], Tensor]
    width: int
    exact: Callable[[Tensor, Tensor], Tensor] | None = None
    bound: float = 0.0


def tile_blocks(
    tiles: Tiles, threshold: Callable[[], float | None], *, d_sae: int, k: int, memory_budget: int
) -> Iterator[Block]:
    """Yield the candidates of every tile on and above the diagonal.

    Args:
        tiles: how to score.
        threshold: the score below which nothing can win any more, or None.
        d_sae: number of features.
        k: how many pairs are wanted.
        memory_budget: bytes for the temporaries of one tile.
    """
    side = tile_side(d_sae=d_sae, width=tiles.width, memory_budget=memory_budget)
    for top in range(0, d_sae, side):
        for left in range(top, d_sae, side):
            tile = tiles.tile(slice(top, top + side), slice(left, left + side))
            if left == top:
                tile.masked_fill_(torch.ones_like(tile, dtype=torch.bool).tril_(), -torch.inf)
            yield _candidates(tiles, tile, top, left, threshold() or 0.0, k)


def tile_side(*, d_sae: int, width: int, memory_budget: int) -> int:
    """Features along a side of the largest tile that fits the budget, at 64 bytes a cell."""
    side = min(math.isqrt(memory_budget // 64), memory_budget // (64 * max(1, width)))
    return max(1, min(d_sae, side))


def _candidates(tiles: Tiles, tile: Tensor, top: int, left: int, least: float, k: int) -> Block:
    if tiles.exact is None:
        # float32 rounding may lift a score to the threshold.
        i, j = _pairs((tile >= least * (1 - 2.0**-23)) & (tile > 0), top, left)
        return i, j, tile[i - top, j - left], int((tile.float() > 0).sum())
    positive = int((tile > tiles.bound).sum())
    near = _pairs(tile.abs() <= tiles.bound, top, left)
    positive += int((tiles.exact(*near) > 0).sum())
    if tile.numel() > k:
        kth = float(tile.flatten().kthvalue(tile.numel() - k + 1).values)
        least = max(least, kth - tiles.bound)
    i, j = _pairs(tile >= least - tiles.bound, top, left)
    return i, j, tiles.exact(i, j).clamp(min=0), positive


def _pairs(mask: Tensor, top: int, left: int) -> tuple[Tensor, Tensor]:
    row, col = mask.nonzero(as_tuple=True)
    return row + top, col + left


def decoder_cosine(e: Evidence) -> Tiles:
    """`max(cos_ij, 0)`."""
    decoder = e.decoder
    return Tiles(
        tile=lambda rows, columns: unit_rows(decoder, rows) @ unit_rows(decoder, columns).T,
        width=decoder.W.shape[1],
        exact=decoder,
        bound=dot_error(decoder),
    )


def sign_discrepancy(e: Evidence) -> Tiles:
    """`relu(cos(d_i, d_j)) * relu(-cos(e_i, e_j))`: decoders overlap while encoders part."""
    decoder, encoder = e.decoder, e.encoder

    def tile(rows: slice, columns: slice) -> Tensor:
        together = _unit64(decoder, rows) @ _unit64(decoder, columns).T
        apart = _unit64(encoder, rows) @ _unit64(encoder, columns).T
        return together.relu_().mul_(apart.neg_().relu_())

    # Most cells are exactly 0, which no float32 filter can tell from nearly 0.
    return Tiles(tile, 4 * decoder.W.shape[1])


def preactivation(e: Evidence) -> Tiles:
    """`Σ_b relu(pre_bi) relu(pre_bj)`."""
    pre = e.need("pre", (e.codes.batch, e.codes.d_sae))

    def take(span: slice) -> Tensor:
        return torch.relu(pre[:, span]).double()

    return Tiles(lambda rows, columns: take(rows).T @ take(columns), 2 * e.codes.batch)


def decoder_projection(e: Evidence) -> Tiles:
    """`Σ_b relu(<x_b, d_i> - θ_i) f_bj`, the larger of the two directions."""
    project = _projection(e)
    theta = e.need("threshold", (e.codes.d_sae,)).double()

    def above(span: slice) -> Tensor:
        return torch.relu(project(span) - theta[span])

    return _directed(e, above, lambda rows, columns: None)


def suppressed(e: Evidence) -> Tiles:
    """`relu(cos_ij) Σ_b f_bj 1[f_bi = 0] 1[<x_b, d_i> > θ_i] <x_b, d_i>`, the larger direction."""
    project, decoder = _projection(e), e.decoder
    theta = e.need("threshold", (e.codes.d_sae,)).double()

    def silent(span: slice) -> Tensor:
        value = project(span)
        return value * (value > theta[span]) * (e.codes.dense(span) == 0)

    def overlap(rows: slice, columns: slice) -> Tensor:
        return (_unit64(decoder, rows) @ _unit64(decoder, columns).T).relu_()

    return _directed(e, silent, overlap)


def _directed(
    e: Evidence,
    side: Callable[[slice], Tensor],
    factor: Callable[[slice, slice], Tensor | None],
) -> Tiles:
    """Tiles of `factor_ij max(Σ_b s_bi f_bj, Σ_b s_bj f_bi)` for `s = side` `[batch, features]`."""

    def tile(rows: slice, columns: slice) -> Tensor:
        forth = side(rows).T @ e.codes.dense(columns).double()
        back = e.codes.dense(rows).double().T @ side(columns)
        score = torch.maximum(forth, back).clamp_(min=0)
        weight = factor(rows, columns)
        return score if weight is None else score * weight

    return Tiles(tile, 6 * e.codes.batch)


def _projection(e: Evidence) -> Callable[[slice], Tensor]:
    """`span -> [batch, features]` float64 projections of x on unit decoder rows."""
    decoder = e.decoder
    x = e.need("x", (e.codes.batch, decoder.W.shape[1])).double()

    def project(span: slice) -> Tensor:
        return x @ _unit64(decoder, span).T

    return project


def _unit64(cosine: Cosine, span: slice | Tensor) -> Tensor:
    return cosine.W[span].double() * cosine.inverse_norm[span, None]


def unit_rows(cosine: Cosine, span: slice | Tensor) -> Tensor:
    """`[features, d_in]` rows for products that `dot_error` bounds."""
    rows = _unit64(cosine, span)
    # TF32 and bf16 products would break the bound.
    return rows.float() if _full_precision() else rows


def _full_precision() -> bool:
    """Whether float32 products are float32 products; where torch cannot tell, they are not."""
    try:
        highest = torch.get_float32_matmul_precision() == "highest"
        return highest and not torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:
        return False


def dot_error(cosine: Cosine) -> float:
    """Largest error of a product of `unit_rows`.

    `d + 2` roundings of 2^-24 in a float32 dot product of unit rows, and as much again.
    """
    return float((cosine.W.shape[1] + 8) * 2.0**-23)


TILED: dict[str, Callable[[Evidence], Tiles]] = {
    "decoder-cosine": decoder_cosine,
    "sign-discrepancy": sign_discrepancy,
    "preactivation": preactivation,
    "decoder-projection": decoder_projection,
    "suppressed": suppressed,
}
