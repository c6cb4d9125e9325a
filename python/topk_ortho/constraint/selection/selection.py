"""The chosen pairs, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, repr=False)
class PairSelection:
    """Chosen pairs, best first, ties to the smaller (i, j).

    Attributes:
        i: `[k]` int64, the smaller feature index of each pair.
        j: `[k]` int64, the larger one.
        score: `[k]` float32, above 0.
        requested: k as asked for, before it is limited by the number of positive scores.
        positive: pairs with a positive score in this batch.
        unsupported: pairs that the support floor kept out of the candidates.
        path: the way they were computed, for the log.
        repeats: whether a pair may stand here twice, one after the other (`ortsae`).
        blocks: pieces that the candidates came in.
        largest_block: pairs of the largest; 0 where they were never laid out.
    """

    i: Tensor
    j: Tensor
    score: Tensor
    requested: int
    positive: int
    unsupported: int = 0
    path: str = ""
    repeats: bool = False
    blocks: int = 1
    largest_block: int = 0

    def distinct(self) -> tuple[Tensor, Tensor]:
        """Returns `(i, j)` with every pair once."""
        if not self.repeats:
            return self.i, self.j
        new = torch.ones_like(self.i, dtype=torch.bool)
        new[1:] = (self.i[1:] != self.i[:-1]) | (self.j[1:] != self.j[:-1])
        return self.i[new], self.j[new]

    def __repr__(self) -> str:
        """Returns how many pairs were chosen of how many, and their scores."""
        best = f", scores {self.score[0]:.4g} to {self.score[-1]:.4g}" if len(self) else ""
        return f"PairSelection({len(self):,} of {self.positive:,} positive pairs{best})"

    def state_dict(self) -> dict[str, Any]:
        """Returns its columns and numbers by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of_state(cls, state: dict[str, Any], d_sae: int | None = None) -> PairSelection:
        """Returns the selection that `state_dict` describes.

        Args:
            state: what it returned.
            d_sae: number of features, which the pairs are checked against.

        Raises:
            KeyError, TypeError: it does not describe a selection.
            ValueError: pairs of other features.
        """
        features = torch.cat([state["i"], state["j"]])
        if len(features) and d_sae is not None:
            low, high = features.aminmax()
            if not 0 <= int(low) <= int(high) < d_sae:
                raise ValueError(f"pairs of other features than the {d_sae}")
        return cls(**state)

    def __len__(self) -> int:
        return self.i.numel()

    @property
    def saturation(self) -> float:
        """Returns taken / positive; above 0.5 hardly anything is being selected."""
        return len(self) / self.positive if self.positive else 0.0


def n_pairs(d_sae: int) -> int:
    """Returns the number of unordered pairs of `d_sae` features."""
    return d_sae * (d_sae - 1) // 2
