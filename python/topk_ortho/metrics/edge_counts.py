"""The arithmetic of absorption: what is counted on tokens, and the rates that follow.

One place for it, whether the classes are true features (`ground_truth.py`) or labels
(`absorption.py`). Counts are added up in float64, exact up to 2^53 tokens. In columns NaN stands
for "not available", and a division by 0 leaves NaN or infinity, which stand for the same;
`known` and `whole` turn both into None.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from topk_ortho.metrics.edges import MIN_CHILD_TOKENS


class EdgeCounts:
    """Sums over tokens, of classes and of the edges between them.

    A class is "on", its feature "fires"; a parent is "alone" where it is on and none of its
    children is.

    Args:
        parent_of: `[edges]` int64, the parent class of each edge.
        child_of: `[edges]` int64, its child.
        feature: `[n_classes]` int64 on CPU, the feature of each class, -1 for none.

    Attributes:
        rows: tokens seen.
        sums: by name, `[n_classes]` or `[edges]` float64 on CPU.
    """

    def __init__(self, parent_of: Tensor, child_of: Tensor, feature: Tensor) -> None:
        self.parent_of, self.child_of, self.feature = parent_of, child_of, feature
        self.rows = 0
        self.sums: dict[str, Tensor] = {}
        nothing = torch.zeros(0, len(feature))
        self.update(nothing.bool(), nothing)

    @torch.no_grad()
    def update(self, on: Tensor, value: Tensor) -> None:
        """Take in one batch.

        Args:
            on: `[rows, n_classes]` bool.
            value: `[rows, n_classes]`, on the same device, the code of each class's feature.
        """
        p, c = self.parent_of.to(on.device), self.child_of.to(on.device)
        fires = value > 0
        children = torch.zeros(on.shape, dtype=torch.int32, device=on.device)
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
        total = values.sum(0, dtype=torch.float64).cpu()
        self.sums[name] = self.sums[name] + total if name in self.sums else total

    def edges(self) -> dict[str, Tensor]:
        """Columns `[edges]` float64 by the names of `Edge`: counts and rates of every edge."""
        n, p, c = self.sums, self.parent_of, self.child_of
        no_parent, no_child = self.feature[p] < 0, self.feature[c] < 0
        count, alone = n["on"][c], n["alone"][p]
        silent = n["silent"].masked_fill(no_parent, math.nan)
        silent_alone = n["alone_silent"][p].masked_fill(no_parent, math.nan)
        fires = n["hit"][c].masked_fill(no_child, math.nan)
        silent_fired = n["silent_fired"].masked_fill(no_parent | no_child, math.nan)
        enough = torch.where(count < MIN_CHILD_TOKENS, math.nan, 1.0)
        rate, base = silent / count * enough, silent_alone / alone * enough
        partial = 1 - (n["child_value"] / count) / (n["alone_value"][p] / alone)
        return {
            "parent": p.double(),
            "child": c.double(),
            "parent_feature": index(self.feature[p]),
            "child_feature": index(self.feature[c]),
            "n_child": count,
            "n_silent": silent,
            "n_child_fires": fires,
            "n_silent_fired": silent_fired,
            "n_parent_alone": alone,
            "n_silent_alone": silent_alone,
            "absorption_rate": rate,
            "absorption_rate_fired": silent_fired / fires * enough,
            "base_miss": base,
            "excess": rate - base,
            "partial": partial * enough,
        }

    def detectors(self) -> dict[str, Tensor]:
        """Columns `[n_classes]` float64 by the names of `Detector`: each class's feature."""
        n, unknown = self.sums, self.feature < 0
        never = unknown | (n["on"] == 0)
        return {
            "feature": index(self.feature),
            "n_on": n["on"],
            "n_fires": n["fires"].masked_fill(unknown, 0),
            "n_hit": n["hit"].masked_fill(unknown, 0),
            "precision": (n["hit"] / n["fires"]).masked_fill(never, math.nan),
            "recall": (n["hit"] / n["on"]).masked_fill(never, math.nan),
            "f1": (2 * n["hit"] / (n["on"] + n["fires"])).masked_fill(never, math.nan),
        }


WHOLE = frozenset({"parent", "child", "feature", "parent_feature", "child_feature"})


def rows(columns: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
    """One dict for each row, of plain numbers and None; indices and counts are whole numbers."""
    plain = {
        name: whole(column) if name in WHOLE or name.startswith("n_") else known(column)
        for name, column in columns.items()
    }
    for row in zip(*plain.values(), strict=True):
        yield dict(zip(plain, row, strict=True))


def index(values: Tensor) -> Tensor:
    """Indices as float64, NaN for the -1 of none."""
    return values.double().masked_fill(values < 0, math.nan)


def whole(values: Tensor) -> tuple[int | None, ...]:
    """Whole numbers, None for what is not available."""
    return tuple(None if v is None else int(v) for v in known(values.double()))


def known(values: Tensor) -> tuple[float | None, ...]:
    """Numbers, None for what is not finite."""
    return tuple(v if math.isfinite(v) else None for v in values.tolist())
