"""The codes of some features on held-out activations.

Costs one encoding of the rows, and `4 * rows * features` bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from topk_ortho.activations import Activations
from topk_ortho.sae import SAE
from topk_ortho.training.evaluation import eval_blocks, rows_at_once


@dataclass(frozen=True)
class Observation:
    """Codes of chosen features.

    Attributes:
        acts: `[rows, chosen]` float32, rows in the order of the held-out blocks.
        column: feature -> its column.
    """

    acts: Tensor
    column: dict[int, int]

    @property
    def rows(self) -> int:
        return len(self.acts)

    def of(self, feature: int) -> Tensor:
        """Returns the `[rows]` activations of one feature."""
        return self.acts[:, self.column[feature]]

    def rate(self, feature: int) -> float:
        """Returns the share of the rows on which it fires."""
        return float((self.of(feature) > 0).double().mean())

    def rarer_first(self, i: int, j: int) -> tuple[int, int]:
        """Returns the pair with the rarer feature first, at equal rates the larger index."""
        fires_i, fires_j = (int((self.of(f) > 0).sum()) for f in (i, j))
        return (i, j) if fires_i < fires_j else (j, i)


@torch.no_grad()
def observe(sae: SAE, data: Activations, features: Sequence[int], *, samples: int) -> Observation:
    """Encode up to `samples` held-out rows of `data` with an exported SAE.

    Args:
        sae: in the units of the model, as `load_sae` gives it.
        data: what the run was trained on; its rows are scaled back to those units.
        features: which features to keep.
        samples: rows at most.
    """
    chosen, parts = torch.tensor(list(features), dtype=torch.int64), []
    for block in eval_blocks(data.source, samples, rows=rows_at_once(sae.d_sae)):
        parts.append(sae.encode(block.x / data.scale)[:, chosen])
    acts = torch.cat(parts) if parts else torch.zeros(0, len(chosen))
    return Observation(acts, {feature: at for at, feature in enumerate(features)})
