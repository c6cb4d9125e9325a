"""Pairs that fire together, in Triton on a GPU: no sort of products, and no wait for the host.

Buffers are allocated once for a size of batch and k. The k-th best score of one call is where the
next one looks from; whether that found all of the k best is decided on the GPU (`kernels.judge`),
which runs up to `ROUNDS` rounds until it has. Where more pairs tie than the buffers hold, the
selection is empty and says so (`LOST`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from topk_ortho.constraint.criteria.quotient import Quotient
from topk_ortho.constraint.selection.selection import (
    LOST,
    NOT_FINITE,
    WHOLE,
    PairSelection,
    SlotSelection,
)
from topk_ortho.constraint.slots import Slots
from topk_ortho.machine.kernels import address, launch, next_power_of_two, run_on
from topk_ortho.machine.transfer import Copy, Transfer
from topk_ortho.sparse.codes import Codes

log = logging.getLogger(__name__)

ROUNDS = 4  # a threshold too high, coarse bins, the k-th best's bin, the same in single values
PROGRAMS = 1056  # eight for each multiprocessor of an H100
HUBS = 128  # most frequent features, whose pairs are added up row by row
ENTRIES, PARTNERS = 8, 32  # of a tile of products
CHUNK = 2048  # slots that a program takes at once
SPARE = 3  # slots for each of the k pairs
BYTES_PER_SLOT = 24
BINS = 8192  # of the histogram of scores, `kernels.BINS`


@dataclass(frozen=True)
class Size:
    """The sizes that buffers depend on, and of the tiles of the kernels.

    Attributes:
        nnz: entries of a batch; more are possible unless fewer than `d_sae`.
        d_sae: features.
        k: pairs wanted, at most.
        programs: scratch rows.
        hubs: features whose pairs are added up row by row.
        entries, partners: sides of a tile.
        chunk: slots that a program takes at once, at least two tiles.
    """

    nnz: int
    d_sae: int
    k: int
    programs: int = PROGRAMS
    hubs: int = HUBS
    entries: int = ENTRIES
    partners: int = PARTNERS
    chunk: int = CHUNK

    @classmethod
    def within(cls, memory_budget: int, *, nnz: int, d_sae: int, k: int) -> Size | None:
        """Returns sizes with as many programs as fit; None where not one multiprocessor is busy."""
        least = cls(nnz, d_sae, k, programs=0)
        programs = (memory_budget - least.bytes) // (8 * least.width + BYTES_PER_SLOT * CHUNK)
        if programs < PROGRAMS // 8:
            return None
        return cls(nnz, d_sae, k, programs=min(PROGRAMS, programs), hubs=min(HUBS, d_sae))

    @property
    def width(self) -> int:
        """Returns the cells of a scratch row: the features that can fire in a batch."""
        return min(self.d_sae, self.nnz)

    @property
    def slots(self) -> int:
        """Returns how many pairs can be looked at more closely."""
        return SPARE * self.k + self.chunk * (self.programs + self.hubs)

    @property
    def bytes(self) -> int:
        """Returns what the buffers and the temporaries of a call take."""
        of_entries, of_features = 32 * self.nnz, 48 * self.d_sae
        scratch = 8 * (self.programs * self.width + self.hubs**2)
        return of_entries + of_features + scratch + BYTES_PER_SLOT * self.slots


class OwnerSums:
    """The buffers of one size, and the selection in them.

    Args:
        size: what they are for.
        device: where they are.
    """

    def __init__(self, size: Size, device: torch.device):
        self.size = size

        def empty(n: int) -> Tensor:
            return torch.empty(n, dtype=torch.int32, device=device)

        # All 0 between calls.
        self._scratch = torch.zeros(size.programs * size.width, dtype=torch.int64, device=device)
        self._hist = torch.zeros(BINS, dtype=torch.int32, device=device)
        self._warm = torch.zeros(1, dtype=torch.int32, device=device)
        self._plan, self._n_out = empty(8), empty(1)
        self._out = [empty(size.slots) for _ in range(3)]
        self._ties = [empty(size.slots) for _ in range(3)]
        # 0 at the start of a call, in one fill.
        parts = [size.d_sae, size.hubs**2, size.d_sae // 2 + 2]
        self._arena = torch.empty(sum(parts), dtype=torch.int64, device=device)
        self._most, self._cells, rest = self._arena.split_with_sizes(parts)
        self._count, self._n_taken, self._n_ties = rest.view(torch.int32)[
            : size.d_sae + 2
        ].split_with_sizes([size.d_sae, 1, 1])

    def hold(self, codes: Codes, k: int) -> bool:
        """Returns whether these buffers are large enough for the k best pairs of a batch."""
        size = self.size
        fits = k <= size.k and min(codes.d_sae, codes.nnz) <= size.width
        return fits and codes.d_sae == size.d_sae and codes.device == self._plan.device

    def best(
        self, codes: Codes, value: Tensor, k: int, *, quotient: Quotient | None, support: int
    ) -> tuple[Slots, Tensor]:
        """Returns the best pairs, in no order, and `[3]` counts (`SlotSelection.counts`).

        Args:
            codes: a batch that the buffers hold.
            value: `[nnz]` float32 or float64, what is multiplied, 0 on silent entries.
            k: pairs wanted.
            quotient: what turns sums into scores; the sums themselves unless given.
            support: rows that the rarer feature of a pair has to fire on.
        """
        from topk_ortho.constraint.selection import kernels

        size = self.size
        self._arena.zero_()
        # Counts, and three columns of slots: a selection outlives the next call.
        answer = torch.zeros(8 + 3 * k, dtype=torch.int32, device=value.device)
        counts = answer[:6].view(torch.int64)
        bits, i, j = answer[8:].split_with_sizes([k, k, k])
        feature_of = self._by_owner(codes, value)
        launch(kernels.begin, (1,), self._plan, self._warm, self._n_out, counts)
        score, numbers = _numbers(quotient, instead=self._most)
        features = (feature_of, self._count, self._most)
        out = (*self._out, self._n_out, size.slots, self._hist, counts)
        constants: dict[str, Any] = {"CHUNK": size.chunk, **score}
        hubs = next_power_of_two(size.hubs)
        tile = {"E": size.entries, "P": size.partners}
        for _ in range(ROUNDS):
            launch(kernels.sweep_hubs, (size.hubs,), self._plan, self._cells, *features, size.hubs,
                   support, *numbers, *out, H=hubs, **constants)  # fmt: skip
            launch(kernels.accumulate, (size.programs,), self._plan, *features, *self._entries,
                   self._scratch, size.width, size.d_sae, size.hubs, support, *numbers, *out,
                   **tile, **constants)  # fmt: skip
            launch(kernels.judge, (1,), self._plan, self._hist, self._n_out, counts, k, size.slots,
                   B=1024)  # fmt: skip
        chosen = (bits, i, j)
        launch(kernels.take, (-(-size.slots // 1024),), self._plan, self._warm, counts, *self._out,
               self._n_out, size.slots, feature_of, self._n_taken, self._n_ties, *chosen,
               *self._ties, k, B=1024)  # fmt: skip
        launch(kernels.pick_ties, (64,), self._plan, self._n_ties, *self._ties, *chosen, k, B=64)
        return Slots(i, j, bits.view(torch.float32)), counts

    def _by_owner(self, codes: Codes, value: Tensor) -> Tensor:
        """Puts the entries in order by owner; returns `[d_sae]`, the feature of each label."""
        from topk_ortho.constraint.selection import kernels

        rows, value = (codes.batch,), value.contiguous()
        crow, col = codes.crow, codes.col
        launch(
            kernels.row_stats, rows, crow, col, value, self._count, self._most, T=64, num_warps=1
        )
        count, feature_of = self._count.sort(descending=True, stable=True)
        label_of = torch.empty_like(feature_of)
        label_of[feature_of] = torch.arange(len(feature_of), device=feature_of.device)
        labels, first, last = torch.empty(3, codes.nnz, dtype=torch.int32, device=col.device)
        values = torch.empty_like(value)
        launch(kernels.relabel_rows, rows, crow, col, value, label_of, labels, values, T=32,
               num_warps=1)  # fmt: skip
        launch(kernels.hub_pairs, rows, crow, labels, values, feature_of, self._count, self._most,
               self.size.hubs, self._cells, A=16, T=64)  # fmt: skip
        end = torch.cumsum(count, 0, dtype=torch.int32)
        launch(kernels.scatter_columns, rows, crow, labels, end - count, first, last, T=64,
               num_warps=1)  # fmt: skip
        self._entries = (end, first, last, labels, values)
        return feature_of


class Owners:
    """The kernels of a selector: their buffers, and whether they have held all pairs so far.

    The first selection is looked at at once, which makes the host wait; of any later one the
    outcome is read when the next begins. Ties beyond the buffers end the use of the kernels.
    """

    def __init__(self) -> None:
        self._buffers: OwnerSums | None = None
        self._transfer = Transfer()
        self._copy: Copy | None = None
        self._usable, self._looked = True, False

    def run_on(self, device: torch.device) -> bool:
        """Returns whether they run on a device, and have been enough."""
        if self._copy is not None:
            copy, self._copy = self._copy, None
            outcome = int(copy.result()[0][2])
            if outcome == LOST:
                self._usable = False
                log.warning(
                    "more pairs had the same score than the GPU's buffers hold, so that the step "
                    "before this one had no penalty; pairs are selected in torch from now on"
                )
            if outcome == NOT_FINITE:
                raise ValueError(
                    "a score of the selection before this one is infinite in float32; look for "
                    "overflow in the activations."
                )
        return self._usable and run_on(device)

    def of(self, codes: Codes, k: int, *, memory_budget: int) -> OwnerSums | None:
        """Returns buffers for the k best pairs of a batch; None where the budget is too small."""
        if self._buffers is not None and self._buffers.hold(codes, k):
            return self._buffers
        grown = k if self._buffers is None else k + k // 4  # k rises by a schedule
        self._buffers = None
        size = Size.within(memory_budget, nnz=codes.nnz, d_sae=codes.d_sae, k=grown)
        if size is not None:
            self._buffers = OwnerSums(size, codes.device)
        return self._buffers

    def checked(self, selection: SlotSelection) -> PairSelection:
        """Returns the selection; the first one only once it is known to be whole."""
        if self._looked:
            self._copy = self._transfer.start(selection.counts)
            return selection
        self._looked = True
        outcome = int(selection.counts[2])
        self._usable = outcome != LOST
        return selection if outcome == WHOLE else selection.settled


def _numbers(
    quotient: Quotient | None, *, instead: Tensor
) -> tuple[dict[str, int | bool], tuple[Tensor, Tensor, int]]:
    """Returns the kernels' constants of a score, and its numbers of each feature."""
    if quotient is None:
        return {"SCORE": 0, "MEAN": False}, (instead, instead, 1)
    score = 2 if quotient.smaller else 1
    numbers = (quotient.by, address(quotient.mean, instead), quotient.n)
    return {"SCORE": score, "MEAN": quotient.mean is not None}, numbers
