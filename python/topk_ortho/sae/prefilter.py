"""A bfloat16 prefilter: an approximate product rules features out, and float32 decides.

Processors with bfloat16 products form `[batch, d_sae]` pre-activations several times faster in
them. No pre-activation is further from its approximation than a bound (Cauchy-Schwarz on the
rounding of both factors), so that all but a few features are ruled out, and the few are computed in
float32.
Where the bound cannot rule out enough, the architecture falls back to the float32 product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from topk_ortho.sparse.csr import dots, row_starts

UNIT = 2.0**-8  # rounding to bfloat16, relative
FLOAT_UNIT = 2.0**-24


@dataclass(frozen=True)
class Prefilter:
    """Approximate pre-activations with the bound on their error.

    Attributes:
        x: `[batch, d_in]` float32, centred.
        W: `[d_sae, d_in]` float32, the encoder's transpose.
        b: `[d_sae]` float32.
        approximate: `[batch, d_sae]` bfloat16, about `x @ W.T + b`.
        error: `[batch]` float32, see `upper`.
    """

    x: Tensor
    W: Tensor
    b: Tensor
    approximate: Tensor
    error: Tensor

    @classmethod
    def of(cls, x: Tensor, W: Tensor, b: Tensor) -> Prefilter:
        """Returns the approximate product of centred `x` and `W`."""
        approximate = torch.addmm(b.bfloat16(), x.bfloat16(), W.bfloat16().T)
        longest = torch.linalg.vector_norm(W, dim=1).amax()
        # Both factors are rounded, and either product is summed in float32.
        factor = 2 * UNIT + UNIT**2 + 2 * x.shape[1] * FLOAT_UNIT
        error = torch.linalg.vector_norm(x, dim=1) * longest * factor + 2 * UNIT * b.abs().amax()
        return cls(x, W, b, approximate, error)

    def upper(self, approximate: Tensor, error: Tensor) -> Tensor:
        """Returns the largest possible pre-activation; rises with `approximate`, rounding included.

        Args:
            approximate: any shape.
            error: `error` of the rows, broadcast to it.
        """
        value = approximate.float()
        return value + value.abs() * (2 * UNIT) + error

    def never_positive(self) -> Tensor:
        """Returns `[batch, 1]` bfloat16: up to this `approximate`, `upper` is at most 0."""
        limit = -self.error / (1 - 2 * UNIT)
        return (limit * (1 + 2 * UNIT)).bfloat16()[:, None]  # rounds to a number below the limit

    def exact(self, row: Tensor, col: Tensor) -> Tensor:
        """Returns `[nnz]` float32 pre-activations of entries sorted by row."""
        return dots(row_starts(row, len(self.x)), col, self.x, self.W).add_(self.b[col])
