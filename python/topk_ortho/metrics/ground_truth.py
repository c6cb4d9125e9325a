"""Feature absorption and feature recovery where the true features are known.

`match` gives every true direction one feature; `GroundTruthMeter` counts over batches how that
feature behaves where the true one is on; `result` turns the counts into rates (`edges.py`). The
definitions are those of the method's section on measuring. What cannot be computed is None, never
0 or NaN: an edge without tokens says nothing about absorption.

`match` costs a dense float64 matrix `[n_true, d_sae]` and a Hungarian assignment (cubic in the
smaller side); a batch costs a few `[rows, n_true]` masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from topk_ortho.metrics.edges import MIN_CHILD_TOKENS, Detector, Edge, GroundTruthResult


def match(W_dec: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Assign features to true directions one to one, with the largest sum of cosines.

    Args:
        W_dec: `[d_sae, d_in]`; a row of zeros has cosine 0 with everything.
        directions: `[n_true, d_in]`.

    Returns:
        `feature` `[n_true]` int64 on CPU, -1 where there were fewer features than directions, and
        `cosine` `[n_true]` float64 on CPU, NaN where `feature` is -1.

    Raises:
        ValueError: widths differ or a value is not finite.
    """
    return _assign(_cosines(directions, W_dec))


def _assign(cosine: Tensor) -> tuple[Tensor, Tensor]:
    from scipy.optimize import linear_sum_assignment

    true, feature = map(torch.from_numpy, linear_sum_assignment(cosine.numpy(), maximize=True))
    index = torch.full((len(cosine),), -1, dtype=torch.int64)
    index[true] = feature
    value = torch.full((len(cosine),), math.nan, dtype=torch.float64)
    value[true] = cosine[true, feature]
    return index, value


def _cosines(directions: Tensor, W_dec: Tensor) -> Tensor:
    """`[n_true, d_sae]` float64 on CPU."""
    if directions.shape[1] != W_dec.shape[1]:
        raise ValueError(
            f"directions have width {directions.shape[1]} and W_dec {W_dec.shape[1]}; "
            "expected the same"
        )
    a, b = (normalize(t.detach().cpu().double(), dim=1) for t in (directions, W_dec))
    cosine = a @ b.T
    if not bool(torch.isfinite(cosine).all()):
        raise ValueError("W_dec or directions hold a value that is not finite; nothing to match")
    return cosine


class GroundTruthMeter:
    """Counts over the evaluation set; `result` may be read at any time.

    Args:
        directions: `[n_true, d_in]`, the true directions.
        parent: `[n_true]` int64, each one's parent, -1 for none.
        W_dec: `[d_sae, d_in]` as it is at evaluation; not kept.
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
        cosine = _cosines(directions, W_dec)
        self.n_true, self.d_sae = cosine.shape
        self.feature, self.cosine = _assign(cosine)
        nearest = cosine.argmax(0).unique() if cosine.numel() else None
        self._uniqueness = None if nearest is None else len(nearest) / self.d_sae
        self._parent = parent
        self._child_of = (parent >= 0).nonzero().flatten()  # [edges]
        self._parent_of = parent[self._child_of]
        self._leak = self._between(W_dec, self._child_of, directions[self._parent_of])
        self._hole = torch.full((len(self._child_of),), math.nan, dtype=torch.float64)
        if W_enc is not None:
            self._hole = self._between(W_enc.T, self._parent_of, directions[self._child_of])
        self.rows = 0
        self._sums: dict[str, Tensor] = {}
        self.update(torch.zeros(0, self.n_true, dtype=torch.bool), torch.zeros(0, self.d_sae))

    def _between(self, weights: Tensor, of: Tensor, truth: Tensor) -> Tensor:
        """Cosine of `truth[e]` with the row of the match of true feature `of[e]`, NaN for none."""
        index = self.feature[of]
        if self.d_sae == 0:
            return torch.full(index.shape, math.nan, dtype=torch.float64)
        rows = weights.detach().cpu()[index.clamp(min=0)].double()
        cosine = cosine_similarity(truth.detach().cpu().double(), rows, dim=1, eps=1e-12)
        return cosine.masked_fill(index < 0, math.nan)

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
        p, c = self._parent_of.to(acts.device), self._child_of.to(acts.device)
        known = (self.feature >= 0).nonzero().flatten().to(acts.device)
        value = torch.zeros(on.shape, dtype=acts.dtype, device=acts.device)
        value[:, known] = acts[:, self.feature.to(acts.device)[known]]
        fires = value > 0
        children = torch.zeros(on.shape, dtype=torch.int32, device=acts.device)
        alone = on & (children.index_add_(1, p, on[:, c].int()) == 0)
        silent = on[:, c] & ~fires[:, p]
        self._add("on", on)
        self._add("fires", fires)
        self._add("hit", on & fires)
        self._add("alone", alone)
        self._add("alone_silent", alone & ~fires)
        self._add("alone_value", value * alone)
        self._add("silent", silent)
        self._add("silent_fired", silent & fires[:, c])
        self._add("child_value", value[:, p] * on[:, c])
        self.rows += len(on)

    def _add(self, name: str, values: Tensor) -> None:
        # float64 counts exactly up to 2^53 tokens
        total = values.sum(0, dtype=torch.float64).cpu()
        self._sums[name] = self._sums[name] + total if name in self._sums else total

    def result(self) -> GroundTruthResult:
        """The rates over all tokens so far."""
        return GroundTruthResult(
            rows=self.rows,
            edges=self._edges(),
            detectors=self._detectors(),
            uniqueness=self._uniqueness,
        )

    def _detectors(self) -> tuple[Detector, ...]:
        n, unknown = self._sums, self.feature < 0
        never = unknown | (n["on"] == 0)
        columns = {
            "parent": _whole(_index(self._parent)),
            "feature": _whole(_index(self.feature)),
            "cosine": _known(self.cosine),
            "n_on": _whole(n["on"]),
            "n_fires": _whole(n["fires"].masked_fill(unknown, 0)),
            "n_hit": _whole(n["hit"].masked_fill(unknown, 0)),
            "precision": _known((n["hit"] / n["fires"]).masked_fill(never, math.nan)),
            "recall": _known((n["hit"] / n["on"]).masked_fill(never, math.nan)),
            "f1": _known((2 * n["hit"] / (n["on"] + n["fires"])).masked_fill(never, math.nan)),
        }
        return tuple(Detector(**row) for row in _rows(columns))

    def _edges(self) -> tuple[Edge, ...]:
        n, p, c = self._sums, self._parent_of, self._child_of
        no_parent, no_child = self.feature[p] < 0, self.feature[c] < 0
        count, alone = n["on"][c], n["alone"][p]
        silent = n["silent"].masked_fill(no_parent, math.nan)
        silent_alone = n["alone_silent"][p].masked_fill(no_parent, math.nan)
        fires = n["hit"][c].masked_fill(no_child, math.nan)
        silent_fired = n["silent_fired"].masked_fill(no_parent | no_child, math.nan)
        enough = torch.where(count < MIN_CHILD_TOKENS, math.nan, 1.0)
        rate, base = silent / count * enough, silent_alone / alone * enough
        partial = 1 - (n["child_value"] / count) / (n["alone_value"][p] / alone)
        whole = {
            "parent": p,
            "child": c,
            "parent_feature": _index(self.feature[p]),
            "child_feature": _index(self.feature[c]),
            "n_child": count,
            "n_silent": silent,
            "n_child_fires": fires,
            "n_silent_fired": silent_fired,
            "n_parent_alone": alone,
            "n_silent_alone": silent_alone,
        }
        real = {
            "parent_cosine": self.cosine[p],
            "child_cosine": self.cosine[c],
            "absorption_rate": rate,
            "absorption_rate_fired": silent_fired / fires * enough,
            "base_miss": base,
            "excess": rate - base,
            "partial": partial * enough,
            "decoder_leak": self._leak,
            "encoder_hole": self._hole,
        }
        columns = {k: _known(v) for k, v in real.items()} | {k: _whole(v) for k, v in whole.items()}
        return tuple(Edge(**row) for row in _rows(columns))


def _rows(columns: Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def _index(values: Tensor) -> Tensor:
    """Indices as float64, NaN for the -1 of none."""
    return values.double().masked_fill(values < 0, math.nan)


def _whole(values: Tensor) -> tuple[int | None, ...]:
    return tuple(None if v is None else int(v) for v in _known(values.double()))


def _known(values: Tensor) -> tuple[float | None, ...]:
    """A division by 0 leaves NaN or infinity, which stand for "not measurable"."""
    return tuple(v if math.isfinite(v) else None for v in values.tolist())
