"""How active features are over a batch, and what a pair weighs by that (C²R).

The gradient of such a weight reaches the activations: the loss can then fall by silencing a
feature, and not only by turning its row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.config.penalty import PairWeight
from topk_ortho.sparse.codes import Codes
from topk_ortho.sparse.scale import row_norms


def activity(acts: Tensor, codes: Codes) -> Tensor:
    """Returns `[d_sae]`, the norm of each feature's activations over the batch.

    A gradient goes to `acts`; none to a feature that is silent on the batch.

    Args:
        acts: `[batch, d_sae]`, dense or sparse (COO, CSR); or `[nnz]` in the order of `codes`.
        codes: their active entries.
    """
    if acts.layout != torch.strided:
        coo = acts.to_sparse_coo().coalesce()
        value, feature = coo.values(), coo.indices()[1]
    elif acts.dim() == 1:
        value, feature = acts, codes.col
    else:
        return torch.linalg.vector_norm(acts, dim=0, dtype=torch.float32)
    squares = torch.zeros(codes.d_sae, device=value.device)
    squares = squares.index_add(0, feature, value.float() ** 2)
    fires = squares > 0
    return torch.where(fires, squares, 1.0).sqrt() * fires  # the root's slope at 0 is infinite


class PairWeights:
    """What the term of each pair is multiplied by.

    Args:
        kind: `one`; `activity`, by how active both features are, with a gradient to the
            activations; `activity-detached`, the same without it.
        exponent: of the sum of the two norms.
    """

    def __init__(self, kind: PairWeight, *, exponent: float = 1.0):
        self.kind = kind
        self.exponent = exponent

    @property
    def moves_activations(self) -> bool:
        """Returns whether a gradient reaches the activations, and not decoder rows alone."""
        return self.kind == "activity"

    def activity(self, acts: Tensor, codes: Codes) -> Tensor | None:
        """Returns `[d_sae]`, how active features are; None where all pairs weigh the same."""
        if self.alike:
            return None
        return activity(acts if self.moves_activations else acts.detach(), codes)

    def activity_of_call(
        self, acts: Tensor | Codes, codes: Codes, *, rows: Tensor | None
    ) -> Tensor | None:
        """Returns the same for activations that a host passes.

        Args:
            acts: what was passed.
            codes: of unit decoder rows, and of all micro-batches.
            rows: `[d_sae, d_out]`, whose norms make `acts` those of unit rows; None if they are.

        Raises:
            ValueError: a gradient should reach the activations, but what was passed has none.
        """
        if not self.moves_activations:
            return self.activity(codes.value, codes)
        if isinstance(acts, Codes):
            raise ValueError(
                "Codes were given, which carry no gradient, but the penalty's gradient reaches "
                "the activations here; pass the activations themselves, or give "
                'PenaltyConfig(pair_weight="activity-detached").'
            )
        active = activity(acts, codes)
        return active if rows is None else active * row_norms(rows.detach())

    @property
    def alike(self) -> bool:
        """Returns whether all pairs weigh the same."""
        return self.kind == "one"

    def factors(self, active: Tensor | None, i: Tensor, j: Tensor, *, unit: float) -> Tensor:
        """Returns `[k]`, `((active_i + active_j) / unit) ** exponent`, 0 where both are silent.

        Args:
            active: `[d_sae]`, how active features are.
            i: `[k]` int64, one feature of each pair.
            j: `[k]` int64, the other.
            unit: the norm that counts as 1.

        Raises:
            ValueError: it is needed and missing.
        """
        if active is None:
            raise ValueError(
                "no activity was given, but pairs are weighed by how active their features are; "
                "pass active=constraint.activity(acts, codes, step=step)."
            )
        total = (active[i] + active[j]) / unit
        if self.exponent == 1:
            return total
        fires = total > 0
        return torch.where(fires, total, 1.0) ** self.exponent * fires
