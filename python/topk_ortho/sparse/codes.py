"""Codes: a batch of feature activations, held as CSR.

Everything that looks for pairs works on the active entries alone, so that its cost follows
`batch * L0²` and not `d_sae`. Within a row, entries are sorted by feature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topk_ortho import _core

CELLS = 2**22
"""Entries of a dense tensor that are processed at once."""


@dataclass(frozen=True)
class Codes:
    """Active entries of `acts`.

    Attributes:
        crow: `[batch + 1]` int64, where each row starts.
        row: `[nnz]` int64, the row of each entry.
        col: `[nnz]` int64, the feature of each entry, rising within a row.
        value: `[nnz]` float32 or bfloat16 as given, above 0.
        d_sae: number of features.
        silent: whether entries of value 0, which are not active, may stand among them: on a GPU
            their number is then known before their values are.
        per_row: entries of every row, where all rows are known to have as many.
    """

    crow: Tensor
    row: Tensor
    col: Tensor
    value: Tensor
    d_sae: int
    silent: bool = False
    per_row: int | None = None

    @property
    def batch(self) -> int:
        return self.crow.numel() - 1

    @property
    def nnz(self) -> int:
        return self.col.numel()

    @property
    def device(self) -> torch.device:
        return self.col.device

    @property
    def active(self) -> int:
        """Returns the number of active entries; on a GPU it may make the host wait."""
        return int((self.value > 0).sum()) if self.silent else self.nnz

    def ones(self) -> Tensor:
        """Returns `[nnz]` ones, and zeros where an entry is silent."""
        if self.silent:
            return (self.value > 0).to(self.value.dtype)
        return self.value.new_ones(self.nnz)

    @cached_property
    def products(self) -> int:
        """Returns how many products of two entries of a row there are.

        The host waits for it unless every row has as many entries.
        """
        if self.per_row is not None:
            return self.batch * (self.per_row * (self.per_row - 1) // 2)
        per_row = self.crow.diff()
        return int((per_row * (per_row - 1) // 2).sum())

    @classmethod
    def of(cls, acts: Tensor) -> Codes:
        """Returns the codes of `acts` `[batch, d_sae]`: dense, CSR or COO, detached.

        Raises:
            TypeError: no tensor.
            ValueError: not two-dimensional, not floating point, negative or not finite.
        """
        if not isinstance(acts, Tensor):
            fix = "torch.from_numpy(acts)" if isinstance(acts, np.ndarray) else "torch.tensor(acts)"
            raise TypeError(
                f"acts of type {type(acts).__name__} were given, but a floating point tensor "
                f"[batch, d_sae] was expected; pass {fix}."
            )
        if acts.dim() != 2 or not acts.is_floating_point():
            raise ValueError(
                f"acts of shape {list(acts.shape)} and dtype {acts.dtype} were given, but a "
                "floating point tensor [batch, d_sae] was expected; pass one row per activation."
            )
        acts = acts.detach()
        if acts.layout == torch.strided:
            if _native(acts):
                return cls._checked(*_core.dense_entries(acts.numpy()), d_sae=acts.shape[1])
            row, col, value = _nonzero(acts)
        else:
            coo = acts.to_sparse_coo().coalesce()
            if _out_of_order(coo):  # CSR whose rows are not sorted counts as coalesced
                coo = torch.sparse_coo_tensor(
                    coo.indices(), coo.values(), acts.shape, check_invariants=False
                ).coalesce()
            row, col = coo.indices()
            value = coo.values()
            active = value != 0
            row, col, value = row[active], col[active], value[active]
        _check(row, col, value)
        return cls.from_entries(row, col, value, batch=acts.shape[0], d_sae=acts.shape[1])

    @classmethod
    def from_entries(
        cls, row: Tensor, col: Tensor, value: Tensor, *, batch: int, d_sae: int
    ) -> Codes:
        """Returns codes of entries sorted by (row, feature), above 0; nothing is checked."""
        if row.is_cuda:  # counting makes the host wait
            crow = torch.searchsorted(row, torch.arange(batch + 1, device=row.device))
            return cls(crow, row, col, value, d_sae)
        counts = torch.bincount(row, minlength=batch)
        crow = torch.zeros(batch + 1, dtype=torch.int64, device=col.device)
        torch.cumsum(counts, 0, out=crow[1:])
        return cls(crow, row, col, value, d_sae)

    @classmethod
    def in_slots(
        cls, row: Tensor, col: Tensor, value: Tensor, *, batch: int, d_sae: int, per_row: int | None
    ) -> Codes:
        """Returns codes of entries sorted by (row, feature), of which some may have the value 0.

        Args:
            row, col, value: `[nnz]`, a number that does not depend on the data.
            batch: number of rows.
            d_sae: number of features.
            per_row: entries of every row, where all have as many.
        """
        if per_row is None:
            crow = torch.searchsorted(row, torch.arange(batch + 1, device=row.device))
        else:
            crow = torch.arange(batch + 1, device=row.device) * per_row
        return cls(crow, row, col, value, d_sae, silent=True, per_row=per_row)

    @classmethod
    def of_top(cls, value: Tensor, feature: Tensor, *, d_sae: int) -> Codes:
        """Returns the codes of the features `[batch, k]` of each row, in any order.

        Raises:
            ValueError: an activation that is negative or not finite.
        """
        value, feature = value.detach(), feature.detach()
        if _native(value) and feature.dtype == torch.int64:
            entries = _core.top_entries(value.numpy(), feature.flatten().numpy(), d_sae)
            return cls._checked(*entries, d_sae=d_sae)
        if feature.device.type == "cpu":  # numpy sorts short rows five times faster
            order = torch.from_numpy(np.argsort(feature.numpy(), axis=1))
        else:
            order = feature.argsort(dim=1)
        value, feature = value.gather(1, order), feature.gather(1, order)
        row, at = value.nonzero(as_tuple=True)
        col, value = feature[row, at], value[row, at]
        _check(row, col, value)
        return cls.from_entries(row, col, value, batch=len(feature), d_sae=d_sae)

    @classmethod
    def _checked(cls, *columns: NDArray[Any], d_sae: int) -> Codes:
        crow, row, col, value = map(torch.from_numpy, columns)
        _check(row, col, value)
        return cls(crow, row, col, value, d_sae)

    @classmethod
    def concatenate(cls, parts: list[Codes]) -> Codes:
        """Returns the rows of all parts in order; at least one part, all of the same `d_sae`."""
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + part.batch)
        out = cls.from_entries(
            torch.cat([part.row + start for part, start in zip(parts, starts, strict=False)]),
            torch.cat([part.col for part in parts]),
            torch.cat([part.value for part in parts]),
            batch=starts[-1],
            d_sae=parts[0].d_sae,
        )
        return replace(out, silent=any(part.silent for part in parts))

    def counts(self) -> Tensor:
        """Returns `[d_sae]` int64: on how many rows each feature is active."""
        if not (self.silent or self.col.is_cuda):
            return torch.bincount(self.col, minlength=self.d_sae)
        fires = (self.value > 0).long()
        return self.col.new_zeros(self.d_sae).index_add_(0, self.col, fires)

    def column_sums(self, value: Tensor) -> Tensor:
        """Returns `[d_sae]` sums of `value` `[nnz]` by feature, in the order of the rows."""
        total = torch.zeros(self.d_sae, dtype=value.dtype, device=self.device)
        return total.index_add_(0, self.col, value)

    def row_sums(self, value: Tensor) -> Tensor:
        """Returns `[batch]` sums of `value` `[nnz]` by row, in the order of the features."""
        # Unless told not to, a GPU asks the host whether the lengths fit.
        return torch.segment_reduce(value, "sum", lengths=self.crow.diff(), unsafe=value.is_cuda)

    def column_minima(self) -> Tensor:
        """Returns `[d_sae]`, the smallest activation of each feature, infinite where inactive."""
        least = torch.full((self.d_sae,), torch.inf, dtype=self.value.dtype, device=self.device)
        value = self.value.where(self.value > 0, torch.inf) if self.silent else self.value
        return least.scatter_reduce_(0, self.col, value, "amin")

    def dense(self, span: slice, value: Tensor | None = None) -> Tensor:
        """Returns `[batch, features]` of some features, 0 where they are not active.

        Args:
            span: features `start:stop`, without a step.
            value: `[nnz]` in place of the activations.
        """
        start, stop, _ = span.indices(self.d_sae)
        inside = (self.col >= start) & (self.col < stop)
        value = self.value if value is None else value
        out = torch.zeros(self.batch, stop - start, dtype=value.dtype, device=self.device)
        out[self.row[inside], self.col[inside] - start] = value[inside]
        return out


def _check(row: Tensor, col: Tensor, value: Tensor) -> None:
    if not value.numel():
        return
    low, high = torch.stack(value.aminmax()).tolist()
    if low > 0 and high < math.inf:  # a NaN is both
        return
    at = int((~(value > 0) | torch.isinf(value)).nonzero()[0])
    raise ValueError(
        f"acts[{int(row[at])}, {int(col[at])}] = {float(value[at])} was given, but finite "
        "activations that are not negative were expected; look at the encoder's output."
    )


def _native(acts: Tensor) -> bool:
    """Returns whether Rust reads these activations: float32 on CPU, and not empty."""
    return acts.device.type == "cpu" and acts.dtype == torch.float32 and acts.numel() > 0


def _nonzero(acts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns row, feature and value of every entry of a dense tensor that is not 0.

    For what Rust does not read. On CPU a few rows at a time through numpy, which is three to five
    times faster than torch.
    """
    width = acts.shape[1]
    if acts.device.type != "cpu":
        row, col = acts.nonzero(as_tuple=True)
        return row, col, acts[row, col]
    rows = max(1, CELLS // max(1, width))
    found = [np.flatnonzero(part.bool().numpy()) + start * rows * width
             for start, part in enumerate(acts.split(rows))]  # fmt: skip
    at = torch.from_numpy(np.concatenate(found))
    row = torch.div(at, width, rounding_mode="floor")
    col = at - row * width
    return row, col, acts[row, col]


def _out_of_order(coo: Tensor) -> bool:
    row, col = coo.indices()
    return bool(((row[1:] == row[:-1]) & (col[1:] <= col[:-1])).any())
