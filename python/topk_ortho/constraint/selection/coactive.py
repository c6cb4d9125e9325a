"""Pairs that fire together, from the codes alone.

Σ_b v_bi v_bj in float64 for every pair (i, j) that is active on one row at least. The cost is the
number of products, `batch * L0² / 2`; the memory is one block of feature rows under a byte budget.
Products of a pair are added in the order of the rows on every path, so the sums are equal bit for
bit however the features are cut into blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from topk_ortho.sparse.codes import Codes

# Measured peaks, including the previous block, which the consumer still holds.
BYTES_PER_PRODUCT = 256
BYTES_PER_CELL = 64
# Index columns of the whole batch: sort order, float64 values, partners, and their temporaries.
BYTES_PER_ENTRY = 72
# A dense accumulator is swept as a whole: above so many cells per product, sorting is cheaper.
CELLS_PER_PRODUCT = 8

Block = tuple[Tensor, Tensor, Tensor]


def coactive_blocks(codes: Codes, value: Tensor, *, memory_budget: int) -> Iterator[Block]:
    """Yield `(i, j, sum)` of all co-active pairs, in pair order.

    Args:
        codes: the batch.
        value: `[nnz]` what is multiplied, in place of `codes.value` where they differ.
        memory_budget: bytes for the temporaries of one block.
    """
    entry = torch.argsort(codes.col, stable=True)
    value = value.double()
    partners = codes.crow[codes.row + 1] - torch.arange(codes.nnz, device=codes.device) - 1
    partners_before = torch.zeros(codes.nnz + 1, dtype=torch.int64, device=codes.device)
    torch.cumsum(partners[entry], 0, out=partners_before[1:])
    entries_before = torch.zeros(codes.d_sae + 1, dtype=torch.int64, device=codes.device)
    torch.cumsum(codes.counts(), 0, out=entries_before[1:])
    products_before = partners_before[entries_before].cpu()
    entries_before = entries_before.cpu()

    budget = max(memory_budget // 4, memory_budget - BYTES_PER_ENTRY * codes.nnz)
    most_products = max(1, budget // BYTES_PER_PRODUCT)
    most_cells = max(codes.d_sae, budget // BYTES_PER_CELL)
    first = 0
    while first < codes.d_sae:
        last = _block_end(products_before, first, most_products)
        products = int(products_before[last] - products_before[first])
        if products:
            cells = (last - first) * codes.d_sae
            span = entry[entries_before[first] : entries_before[last]]
            dense = cells <= min(most_cells, CELLS_PER_PRODUCT * products)
            if products > most_products or (dense and codes.device.type == "cpu"):
                yield _dense_block(codes, value, span, partners, first, last, most_products)
            else:
                yield _sorted_block(codes, value, span, partners, first)
        first = last


def _block_end(products_before: Tensor, first: int, most_products: int) -> int:
    """Returns the largest block of features from `first` under the limit, at least one."""
    limit = products_before[first] + most_products
    return max(first + 1, int(torch.searchsorted(products_before, limit, right=True)) - 1)


def _products(codes: Codes, value: Tensor, span: Tensor, partners: Tensor) -> Block:
    """`(i, j, v_i v_j)` of the entries in `span` with the entries behind them in their rows."""
    count = partners[span]
    left = torch.repeat_interleave(span, count)
    start = torch.cumsum(count, 0) - count
    offset = torch.arange(left.numel(), device=left.device) - torch.repeat_interleave(start, count)
    right = left + 1 + offset
    return codes.col[left], codes.col[right], value[left] * value[right]


def _run_sums(value: Tensor, length: Tensor) -> Tensor:
    """Sums of runs of `value`, in their order on CPU."""
    if value.device.type == "cpu":
        return torch.segment_reduce(value, "sum", lengths=length)
    # A GPU gives every run of segment_reduce a block of threads: half of a selection's time (H100).
    run = torch.arange(length.numel(), device=value.device)
    run = torch.repeat_interleave(run, length, output_size=value.numel())
    return value.new_zeros(length.numel()).index_add_(0, run, value)


def _dense_block(
    codes: Codes,
    value: Tensor,
    span: Tensor,
    partners: Tensor,
    first: int,
    last: int,
    most_products: int,
) -> Block:
    """Accumulate into `[rows, d_sae]`; a feature with too many products comes in pieces."""
    cells = torch.zeros((last - first) * codes.d_sae, dtype=torch.float64, device=codes.device)
    pieces = max(1, -(-int(partners[span].sum()) // most_products))
    for piece in span.tensor_split(pieces):
        i, j, product = _products(codes, value, piece, partners)
        cells.index_add_(0, (i - first) * codes.d_sae + j, product)
    cell = cells.nonzero().squeeze(1)
    i = torch.div(cell, codes.d_sae, rounding_mode="floor")
    return i + first, cell - i * codes.d_sae, cells[cell]


def _sorted_block(codes: Codes, value: Tensor, span: Tensor, partners: Tensor, first: int) -> Block:
    """Sort the products by pair and add up runs of equal pairs."""
    i, j, product = _products(codes, value, span, partners)
    key, order = torch.sort((i - first) * codes.d_sae + j, stable=True)
    key, length = torch.unique_consecutive(key, return_counts=True)
    total = _run_sums(product[order], length)
    i = torch.div(key, codes.d_sae, rounding_mode="floor")
    return i + first, key - i * codes.d_sae, total
