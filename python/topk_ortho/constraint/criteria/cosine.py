"""Cosines of chosen decoder rows in float64, without a `[pairs, d_in]` block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from topk_ortho.sparse.scale import at_safe_scale

ROWS_AT_ONCE = 4096
# One row of a tile costs as much as the gathered dot products of about so many pairs.
GATHERED_PER_CELL = 16
Span = TypeVar("Span", slice, Tensor)


class Cosine:
    """Returns `cos_ij` of rows of `W_dec` `[d_sae, d_in]`, in float64; 0 for a zero row."""

    def __init__(self, W_dec: Tensor, *, memory_budget: int):
        self.W = W_dec.detach()
        if self.W.dtype == torch.float64:  # all other dtypes' squares are in its range
            self.W = at_safe_scale(self.W)[0]
        self.memory_budget = memory_budget
        norms = [
            torch.linalg.vector_norm(rows.double(), dim=1) for rows in self.W.split(ROWS_AT_ONCE)
        ]
        norm = torch.cat(norms)
        bad = ~torch.isfinite(norm)
        # On a GPU asking makes the host wait; the scores of such a row are refused in any case.
        if not norm.is_cuda and bool(bad.any()):
            raise ValueError(
                f"row {int(bad.nonzero()[0])} of W_dec is not finite, but cosines need finite "
                "decoder rows; stop before the step that broke it."
            )
        self.inverse_norm = torch.where(norm == 0, 0.0, 1 / norm)

    def __call__(self, i: Tensor, j: Tensor) -> Tensor:
        """Returns `[n]` float64 cosines; `i` may be sorted, as in blocks of candidates, or not."""
        if i.numel() == 0:
            return torch.empty(0, dtype=torch.float64, device=i.device)
        d_sae, d_in = self.W.shape
        first, last = (0, d_sae) if i.is_cuda else (int(i.min()), int(i.max()) + 1)
        cells = (last - first) * d_sae
        tile_bytes = 8 * (cells + (last - first + d_sae) * d_in)
        if i.numel() * GATHERED_PER_CELL >= cells and tile_bytes <= self.memory_budget // 4:
            tile = self.W[first:last].double() @ self.W.double().T
            dot = tile[i - first, j]
        else:
            dot = self._gathered(i, j)
        return dot * self.inverse_norm[i] * self.inverse_norm[j]

    def unit_rows(self, span: slice | Tensor) -> Tensor:
        """Returns rows scaled to unit norm, `[features, d_in]` float64."""
        return self.W[span].double() * self.inverse_norm[span, None]

    def approximate_rows(self, span: slice | Tensor) -> Tensor:
        """Returns rows whose products are off by `dot_error` at most, in float32 where possible."""
        rows = self.unit_rows(span)
        # TF32 and bf16 products would break the bound.
        return rows.float() if _full_precision() else rows

    def tiles(self, spans: Sequence[Span]) -> Iterator[tuple[Span, Span, Tensor]]:
        """The approximate cosines of every two rows: tiles of a span with itself, -inf where a row
        meets itself, and with each later one."""
        for at, left in enumerate(spans):
            rows = self.approximate_rows(left)
            yield left, left, (rows @ rows.T).fill_diagonal_(-torch.inf)
            for right in spans[at + 1 :]:
                yield left, right, rows @ self.approximate_rows(right).T

    @property
    def dot_error(self) -> float:
        """Returns the largest error of a product of `approximate_rows`.

        `d + 2` roundings of 2^-24 in a float32 dot product of unit rows, and as much again.
        """
        return float((self.W.shape[1] + 8) * 2.0**-23)

    def _gathered(self, i: Tensor, j: Tensor) -> Tensor:
        d_in = self.W.shape[1]
        at_once = max(1, min(i.numel(), self.memory_budget // (8 * 32 * d_in)))
        dot = torch.empty(i.numel(), dtype=torch.float64, device=i.device)
        # Blocks that are used again: allocating per piece leaves a heap full of holes.
        rows = self.W.new_empty(at_once, d_in)
        left, right = (
            torch.empty(at_once, d_in, dtype=torch.float64, device=i.device) for _ in "ij"
        )
        for at in range(0, i.numel(), at_once):
            a, b, out = i[at : at + at_once], j[at : at + at_once], dot[at : at + at_once]
            n = len(a)
            left[:n].copy_(torch.index_select(self.W, 0, a, out=rows[:n]))
            right[:n].copy_(torch.index_select(self.W, 0, b, out=rows[:n]))
            torch.sum(left[:n].mul_(right[:n]), 1, out=out)
        return dot


def _full_precision() -> bool:
    """Returns whether float32 products are full float32; False where torch cannot tell."""
    try:
        highest = torch.get_float32_matmul_precision() == "highest"
        return highest and not torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:
        return False
