"""Exact streaming top-k over blocks of candidates, one interface on every device.

On CPU the blocks go through the Rust selector; elsewhere a buffer of a few k candidates is cut back
with a stable sort. Both keep, of equal scores, the smaller (i, j), and refuse non-finite scores.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from topk_ortho.constraint.selection import native
from topk_ortho.machine.spans import spanned


class Collector(Protocol):
    """A collector of candidates, block by block, in any order, each pair once."""

    def push(self, i: Tensor, j: Tensor, score: Tensor) -> None:
        """Offer `[n]` candidates; scores float32, zeros are ignored."""

    def threshold(self) -> float | None:
        """Returns the k-th best score once k are held: below it a candidate cannot win."""

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns `(i, j, score)`, best first."""


def collector(k: int, device: torch.device) -> Collector:
    """Returns the collector for tensors of a device."""
    return RustCollector(k) if device.type == "cpu" else TorchCollector(k, device)


class RustCollector:
    """The Rust selector behind CPU tensors."""

    def __init__(self, k: int):
        self._topk = native.TopK(k)

    @spanned("selection")
    def push(self, i: Tensor, j: Tensor, score: Tensor) -> None:
        self._topk.push(i.numpy(), j.numpy(), score.numpy())

    def threshold(self) -> float | None:
        return self._topk.threshold()

    @spanned("selection")
    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        i, j, score = self._topk.finish()
        return torch.from_numpy(i), torch.from_numpy(j), torch.from_numpy(score)


class TorchCollector:
    """The same in torch: candidates pile up to 4 k and are cut back to k."""

    def __init__(self, k: int, device: torch.device):
        self.k = k
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = [
            (
                torch.empty(0, dtype=torch.int64, device=device),
                torch.empty(0, dtype=torch.int64, device=device),
                torch.empty(0, dtype=torch.float32, device=device),
            )
        ]
        self._held = 0
        self._threshold: float | None = None

    @spanned("selection")
    def push(self, i: Tensor, j: Tensor, score: Tensor) -> None:
        bad = ~torch.isfinite(score)
        if bool(bad.any()):
            at = int(bad.nonzero()[0])
            raise ValueError(
                f"score of pair i = {int(i[at])}, j = {int(j[at])} is {float(score[at])}; expected "
                "a finite number; look for overflow or NaN in the activations of these two features"
            )
        keep = score > 0 if self._threshold is None else score >= self._threshold
        self._parts.append((i[keep], j[keep], score[keep]))
        self._held += self._parts[-1][0].numel()
        if self._held > max(4 * self.k, 1 << 16) or self._threshold is None:
            self._compact()

    def threshold(self) -> float | None:
        return self._threshold

    @spanned("selection")
    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        self._compact()
        return self._parts[0]

    def _compact(self) -> None:
        i, j, score = (torch.cat(column) for column in zip(*self._parts, strict=True))
        order = torch.argsort(j, stable=True)
        order = order[torch.argsort(i[order], stable=True)]
        order = order[torch.argsort(score[order], stable=True, descending=True)][: self.k]
        self._parts = [(i[order], j[order], score[order])]
        self._held = order.numel()
        if self._held == self.k:
            self._threshold = float(score[order[-1]])
