"""BatchTopK: the k * batch largest pre-activations of a batch (Bussmann et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from topk_ortho.config import ConfigError, SAEConfig
from topk_ortho.distributed.world import ALONE, World
from topk_ortho.machine.forecast import DOUBLE, FLOAT, INT, Component, Shapes
from topk_ortho.sae.largest import PIECE, largest, largest_values
from topk_ortho.sae.largest_of_all import largest_of_all
from topk_ortho.sae.prefilter import Prefilter
from topk_ortho.sae.sae import SAE

RANKED = 16
"""Bytes that torch.topk takes on CPU per value that it looks at: (value, place), sorted."""
SPARE = 4
"""Calibration ranks so many times k values of a row; the k * rows largest are among them."""


class BatchTopKSAE(SAE):
    """Keeps k features per row on average; outside training one threshold does.

    Attributes:
        threshold: scalar that `pre` has to exceed outside training; 0 until it is calibrated.
    """

    name = "batch-topk"
    inference = "threshold"
    ranks_features = True
    fixed_entries = True
    threshold: Tensor

    def __init__(self, config: SAEConfig, *, d_in: int, seed: int, d_out: int | None = None):
        super().__init__(config, d_in=d_in, seed=seed, d_out=d_out)
        self.register_buffer("threshold", torch.zeros(()))
        self._world, self._batch = ALONE, 0

    def share(self, world: World, *, batch: int) -> None:
        if self.config.bf16_prefilter and world.shared:
            raise ConfigError(
                f"--sae.bf16-prefilter was given with --sae.kind {self.config.kind} and "
                f"{world.size} processes, but what competes over the whole batch is not "
                "prefiltered over several; leave --sae.bf16-prefilter out."
            )
        self._world, self._batch = world, batch
        # how many entries a process has of the batch depends on the data
        self.fixed_entries = type(self).fixed_entries and not world.shared  # type: ignore[misc]

    @classmethod
    def memory(cls, s: Shapes) -> Iterator[Component]:
        yield from super().memory(s)
        if not s.gpu:
            # those above a first threshold, with place, value and rank of each, twice over
            cells = s.config.batch_size * s.config.sae.d_sae
            ranking = cells + 2 * (2 * INT + FLOAT + RANKED) * s.entries
            yield Component("top-k over the batch", ranking, ("encoding",), "--batch-size")

    @classmethod
    def calibration_memory(cls, s: Shapes, *, rows: int, piece: int) -> Iterator[Component]:
        when, cells = ("calibration",), piece * s.config.sae.d_sae
        share = min(cells, round(SPARE * s.config.sae.k * piece))
        found = FLOAT * share * -(-rows // piece)
        yield Component("codes to calibrate on", 2 * FLOAT * cells, when, "--sae.d-sae")
        if not s.gpu:
            yield Component("ranking of codes", RANKED * min(cells, PIECE), when, "--sae.d-sae")
        # found, concatenated, and sorted with their places
        yield Component("largest codes", found, when, "--sae.k")
        yield Component("the same, sorted", (DOUBLE + INT) * found // FLOAT, when, "--sae.k")

    def activate(self, pre: Tensor) -> Tensor:
        flat = pre.flatten()
        index = self._largest(flat.detach(), pre)
        return torch.zeros_like(flat).scatter(0, index, torch.relu(flat[index])).view_as(pre)

    def active(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        return self._entries(self._largest(pre.flatten(), pre))

    def prefiltered(self, prefilter: Prefilter) -> tuple[Tensor, Tensor, Tensor]:
        about, kept = prefilter.approximate.flatten(), self._kept(prefilter.approximate)
        near = largest(about, min(about.numel(), 2 * kept))
        row, col = self._entries(near)
        exact = prefilter.exact(row, col)
        best = exact.topk(kept, sorted=False).indices.sort().values
        ruled_out = prefilter.upper(about[near].amin(), prefilter.error.amax())
        if len(near) < about.numel() and not bool(exact[best].amin() > ruled_out):
            pre = torch.addmm(prefilter.b, prefilter.x, prefilter.W.T)
            row, col = self.active(pre)
            return row, col, pre[row, col]
        return row[best], col[best], exact[best]

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Set the threshold at which mean L0 on `batches` is k."""
        largest_of_all, rows = [], 0
        for x in batches:
            pre = torch.relu_(self.pre_acts(x.to(self.threshold.device))).flatten()
            share = min(pre.numel(), max(2, round(SPARE * self.k * len(x))))
            largest_of_all.append(largest_values(pre, share))
            rows += len(x)
        ordered = torch.cat(largest_of_all).sort(descending=True).values
        wanted = min(max(1, round(self.k * rows)), ordered.numel() - 1)
        self.threshold.copy_((ordered[wanted - 1] + ordered[wanted]) / 2)

    def _largest(self, flat: Tensor, pre: Tensor) -> Tensor:
        """Places of the active entries of a batch, or of this process's rows of it."""
        if not self._world.shared:
            return largest(flat, self._kept(pre))
        kept = min(max(1, round(self.k * self._batch)), self._batch * pre.shape[1])
        return largest_of_all(flat, kept, self._world)

    def _kept(self, pre: Tensor) -> int:
        """Active entries of a batch."""
        return min(max(1, round(self.k * pre.shape[0])), pre.numel())

    def _entries(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """`(row, feature)` in row order, from places in the flattened matrix."""
        place = place.sort().values
        row = torch.div(place, self.d_sae, rounding_mode="floor")
        return row, place - row * self.d_sae

    def inference_code(self, pre: Tensor) -> Tensor:
        return torch.relu(pre) * (pre > self.threshold)

    def thresholds(self) -> Tensor:
        return self.threshold.expand(self.d_sae)

    def load_thresholds_(self, threshold: Tensor) -> None:
        self.threshold = threshold.float()
