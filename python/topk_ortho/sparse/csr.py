"""CSR matrices from parts that are known to be valid, and their products.

For the sparse step and for chosen pairs: the cost follows the number of entries.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def csr(crow: Tensor, col: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    """Returns a CSR matrix; nothing is checked."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(crow, col, value, shape, check_invariants=False)


def product(matrix: Tensor, rows: Tensor) -> Tensor:
    """Returns `matrix @ rows` for a CSR matrix, in uninitialised memory."""
    out = rows.new_empty(matrix.shape[0], rows.shape[1])
    return torch.addmm(out, matrix, rows, beta=0, out=out)


def dots(crow: Tensor, col: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Returns `[nnz]`: `<a[row], b[col]>` at the entries of a pattern `[len(a), len(b)]`."""
    pattern = csr(crow, col, a.new_zeros(col.numel()), (len(a), len(b)))
    return torch.sparse.sampled_addmm(pattern, a, b.T, beta=0).values()


def row_starts(index: Tensor, n: int) -> Tensor:
    """Returns `[n + 1]` int64, where each row of sorted or countable `index` starts."""
    starts = torch.zeros(n + 1, dtype=torch.int64, device=index.device)
    torch.cumsum(torch.bincount(index, minlength=n), 0, out=starts[1:])
    return starts
