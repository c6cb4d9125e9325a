"""Pairs that are known before the training begins, such as the edges of an atlas."""

from __future__ import annotations

import torch

from topk_ortho.constraint.criteria.inputs import SelectorInputs
from topk_ortho.constraint.selection.selection import PairSelection


def listed_pairs(e: SelectorInputs) -> PairSelection:
    """Returns all pairs of `e.given`, each once and with score 1."""
    pairs = e.need("given", (None, 2))
    pairs = torch.unique(pairs.sort(dim=1).values, dim=0)  # in the order of (i, j)
    if int(pairs.max()) >= e.codes.d_sae:
        raise ValueError(
            f"the pair {pairs[pairs[:, 1].argmax()].tolist()} was given, but there are only "
            f"{e.codes.d_sae} features; give the pairs of this SAE."
        )
    pairs = pairs.to(e.codes.device)
    score = torch.ones(len(pairs), dtype=torch.float32, device=pairs.device)
    return PairSelection(pairs[:, 0], pairs[:, 1], score, len(pairs), len(pairs), path="list")
