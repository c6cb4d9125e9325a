"""Matryoshka BatchTopK: nested prefixes that each reconstruct (Bussmann et al. 2025)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from topk_ortho.config import SAEConfig
from topk_ortho.machine.forecast import Component, Shapes, between
from topk_ortho.sae.batch_topk import BatchTopKSAE
from topk_ortho.sae.memory import ENTRY
from topk_ortho.sparse.codes import Codes
from topk_ortho.sparse.csr import row_starts
from topk_ortho.sparse.products import Decode


class MatryoshkaSAE(BatchTopKSAE):
    """BatchTopK whose first features also have to reconstruct without the later ones.

    Attributes:
        prefixes: numbers of features, rising; the last one is `d_sae`.
    """

    name = "matryoshka"

    def __init__(self, config: SAEConfig, *, d_in: int, seed: int, d_out: int | None = None):
        super().__init__(config, d_in=d_in, seed=seed, d_out=d_out)
        self.prefixes = config.prefixes or default_prefixes(config.d_sae)

    @classmethod
    def memory(cls, s: Shapes) -> Iterator[Component]:
        yield from super().memory(s)
        sae, lasting = s.config.sae, between("decoding", "checkpoint")
        stops = sae.prefixes or default_prefixes(sae.d_sae)
        shorter = (len(stops) - 1) * s.rows_out
        yield Component("reconstructions of prefixes", shorter, lasting, "--sae.prefixes")
        if s.sparse:
            inside = round(ENTRY * s.entries * sum(stops) / sae.d_sae)
            yield Component("entries of the prefixes", inside, lasting, "--sae.k")
        else:
            yield Component("codes of a prefix", s.dense, ("decoding",), "--sae.prefixes")

    def reconstructions(self, acts: Tensor) -> tuple[Tensor, ...]:
        x_hat: Tensor = self.b_dec
        start, parts = 0, []
        for stop in self.prefixes:
            x_hat = x_hat + acts[:, start:stop] @ self.W_dec[start:stop]
            parts.append(x_hat)
            start = stop
        return tuple(parts)

    def sparse_reconstructions(
        self, value: Tensor, codes: Codes, pre: Tensor
    ) -> tuple[Tensor, ...]:
        parts = []
        for stop in self.prefixes:
            inside = codes.col < stop
            row, col = codes.row[inside], codes.col[inside]
            crow = row_starts(row, codes.batch)
            parts.append(Decode.apply(value[inside], self.W_dec, crow, row, col) + self.b_dec)
        return tuple(parts)


def default_prefixes(d_sae: int) -> tuple[int, ...]:
    """1/8, 3/8 and all of the features: 32/96/256 at 256."""
    return tuple(sorted({max(1, d_sae // 8), max(1, 3 * d_sae // 8), d_sae}))
