"""The Rust side of pair selection: CPU tensors in, CPU tensors out, nothing copied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from topk_ortho import _core
from topk_ortho.sparse.codes import Codes

Array = NDArray[Any]
BestPairs = tuple[Tensor, Tensor, Tensor, int]
"""The pairs `(i, j, score, positive)`, best first, and how many scores are above 0."""
TopK = _core.TopK
BYTES_PER_BEST = 32  # of the pairs kept by `TopK`, and by a selection as a whole
BYTES_PER_PAIR = 96  # of a block: (i, j, sum), and what scoring makes of it


class Coactivation:
    """Pairs that fire together, from codes on CPU; keeps buffers and a threshold between calls.

    The sums, and so the selection, equal those of `coactive.py` bit for bit.
    """

    def __init__(self) -> None:
        self._threads = 0
        self._core = _core.Coactivation()

    def best(self, codes: Codes, value: Tensor, k: int) -> BestPairs:
        """Returns `(i, j, score, positive)`: the k largest `Σ_b v_bi v_bj`, best first."""
        *columns, positive = self._ready().select(*_arrays(codes, value), codes.d_sae, k)
        i, j, score = map(torch.from_numpy, columns)
        return i, j, score, positive

    def best_cosines(self, codes: Codes, W_dec: Tensor, k: int) -> BestPairs:
        """Returns the k largest `max(cos_ij, 0)` of `W_dec` among pairs that fire together."""
        rows = W_dec.detach().contiguous().numpy()
        *columns, positive = self._ready().select_cosine(*_arrays(codes, codes.value), rows, k)
        i, j, score = map(torch.from_numpy, columns)
        return i, j, score, positive

    def blocks(
        self, codes: Codes, value: Tensor, *, memory_budget: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield `(i, j, sum)` of all pairs that fire together, in pair order."""
        core = self._ready()
        crow, col, values = _arrays(codes, value)
        most = max(1, memory_budget // BYTES_PER_PAIR)
        first = 0
        for last in core.blocks(crow, col, codes.d_sae, most):
            columns = core.pairs(crow, col, values, codes.d_sae, first, last)
            i, j, total = map(torch.from_numpy, columns)
            yield i, j, total
            first = last

    @property
    def bytes(self) -> int:
        """Returns the bytes of the buffers, which are kept from one call to the next."""
        return self._core.bytes

    def _ready(self) -> _core.Coactivation:
        threads = torch.get_num_threads()
        if threads != self._threads:
            self._threads, self._core = threads, _core.Coactivation(threads=threads)
        return self._core


def best_products(vector: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns `(i, j, score)` of the k largest products of two entries of `vector` `[d_sae]`.

    Best first. One vector is copied to the CPU, k pairs come back: Rust searches on all devices.
    """
    columns = _core.top_products(vector.float().cpu().numpy(), k)
    i, j, score = (torch.from_numpy(column).to(vector.device) for column in columns)
    return i, j, score


def _arrays(codes: Codes, value: Tensor) -> tuple[Array, Array, Array]:
    value = value if value.dtype in (torch.float32, torch.float64) else value.float()
    return codes.crow.numpy(), codes.col.numpy(), value.numpy()
