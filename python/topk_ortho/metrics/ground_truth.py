"""Feature absorption and feature recovery where the true features are known.

`match` gives every true direction one feature; `GroundTruthMeter` counts over batches how that
feature behaves where the true one is on (`edge_counts.py`); `result` turns the counts into rates
(`edges.py`). The definitions are those of the method's section on measuring. What cannot be
computed is None, never 0 or NaN: an edge without tokens says nothing about absorption.

A batch costs a few `[rows, n_true]` masks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from topk_ortho.metrics.edge_counts import EdgeCounts, index, rows
from topk_ortho.metrics.edges import Detector, Edge, GroundTruthResult
from topk_ortho.metrics.firing import columns
from topk_ortho.metrics.matching import assign, cosines, match

__all__ = ["GroundTruthMeter", "match"]


class GroundTruthMeter:
    """Counts over the evaluation set; `result` may be read at any time.

    Args:
        directions: `[n_true, d_in]`, the true directions.
        parent: `[n_true]` int64, each one's parent, -1 for none.
        W_dec: `[d_sae, d_in]` at evaluation; not kept.
        W_enc: `[d_in, d_sae]`, not kept; without it `encoder_hole` is None.

    Attributes:
        feature: `[n_true]` int64 on CPU, the match of each true feature, -1 for none.
        cosine: `[n_true]` float64 on CPU, its cosine, NaN without a match.

    Raises:
        ValueError: shapes that do not fit, a parent that does not exist.
    """

    def __init__(
        self, directions: Tensor, parent: Tensor, W_dec: Tensor, W_enc: Tensor | None = None
    ) -> None:
        n_true = len(directions)
        parent = parent.cpu().long()
        if parent.shape != (n_true,) or bool(((parent < -1) | (parent >= n_true)).any()):
            raise ValueError(
                f"parent must be [{n_true}] with values from -1 to {n_true - 1}, one for each "
                f"direction; it has shape {tuple(parent.shape)}"
            )
        if W_enc is not None and W_enc.shape != W_dec.T.shape:
            raise ValueError(
                f"W_enc has shape {tuple(W_enc.shape)}, expected {tuple(W_dec.T.shape)}"
            )
        cosine = cosines(directions, W_dec)
        self.n_true, self.d_sae = cosine.shape
        self.feature, self.cosine = assign(cosine)
        nearest = cosine.argmax(0).unique() if cosine.numel() else None
        self._uniqueness = None if nearest is None else len(nearest) / self.d_sae
        self._parent = parent
        child_of = (parent >= 0).nonzero().flatten()  # [edges]
        parent_of = parent[child_of]
        self._leak = self._between(W_dec, child_of, directions[parent_of])
        self._hole = torch.full((len(child_of),), math.nan, dtype=torch.float64)
        if W_enc is not None:
            self._hole = self._between(W_enc.T, parent_of, directions[child_of])
        self._counts = EdgeCounts(parent_of, child_of, self.feature)

    def _between(self, weights: Tensor, of: Tensor, truth: Tensor) -> Tensor:
        """Cosine of `truth[e]` with the row of the match of true feature `of[e]`, NaN for none."""
        matched = self.feature[of]
        if self.d_sae == 0:
            return torch.full(matched.shape, math.nan, dtype=torch.float64)
        weight = weights.detach().cpu()[matched.clamp(min=0)].double()
        cosine = cosine_similarity(truth.detach().cpu().double(), weight, dim=1, eps=1e-12)
        return cosine.masked_fill(matched < 0, math.nan)

    @torch.no_grad()
    def update(self, fired: Tensor, acts: Tensor) -> None:
        """Take in one batch.

        Args:
            fired: `[rows, n_true]` bool, which true features are on.
            acts: `[rows, d_sae]`, the codes, non-negative; a feature fires where it is above 0.

        Raises:
            ValueError: a shape that does not fit.
        """
        expected = ((len(fired), self.n_true), (len(fired), self.d_sae))
        if (tuple(fired.shape), tuple(acts.shape)) != expected:
            raise ValueError(
                f"fired {tuple(fired.shape)} and acts {tuple(acts.shape)} do not fit; expected "
                f"{expected[0]} and {expected[1]}"
            )
        on = fired.to(acts.device).bool()
        self._counts.update(on, columns(acts, self.feature))

    def result(self) -> GroundTruthResult:
        """Returns the rates over all tokens so far."""
        p, c = self._counts.parent_of, self._counts.child_of
        edges = self._counts.edges() | {
            "parent_cosine": self.cosine[p],
            "child_cosine": self.cosine[c],
            "decoder_leak": self._leak,
            "encoder_hole": self._hole,
        }
        detectors = self._counts.detectors() | {
            "parent": index(self._parent),
            "cosine": self.cosine,
        }
        return GroundTruthResult(
            rows=self._counts.rows,
            edges=tuple(Edge(**row) for row in rows(edges)),
            detectors=tuple(Detector(**row) for row in rows(detectors)),
            uniqueness=self._uniqueness,
        )
