"""The codes of the global batch, on every process: rows in the order of ranks.

`8 * rows * L0 + 4 * rows` bytes: values as they are, features and row lengths as int32, in one
all-gather, padded to the longest part. Parts may have any number of rows, none included.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from topk_ortho.distributed.world import World
from topk_ortho.sparse.codes import Codes

WHAT = "the codes of the other processes"


def gather_codes(
    codes: Codes, world: World, *, rows: Sequence[int], entries: Sequence[int]
) -> Codes:
    """Returns the codes of all rows of all processes.

    Args:
        codes: those of this process's rows.
        world: the processes.
        rows: rows of each of them.
        entries: entries of each of them.
    """
    if not world.shared:
        return codes
    most_rows, most = max(rows), max(entries)
    size = codes.value.element_size()
    sent = torch.zeros(4 * (most_rows + most) + size * most, dtype=torch.uint8, device=codes.device)
    _put(sent, 0, codes.crow.diff().int())
    _put(sent, 4 * most_rows, codes.col.int())
    _put(sent, 4 * (most_rows + most), codes.value)
    got = world.gather(sent, WHAT)
    lengths, cols, values = [], [], []
    for part, n_rows, nnz in zip(got, rows, entries, strict=True):
        lengths.append(_taken(part, 0, n_rows, torch.int32))
        cols.append(_taken(part, 4 * most_rows, nnz, torch.int32))
        values.append(_taken(part, 4 * (most_rows + most), nnz, codes.value.dtype))
    length = torch.cat(lengths).long()
    crow = torch.zeros(len(length) + 1, dtype=torch.int64, device=codes.device)
    torch.cumsum(length, 0, out=crow[1:])
    at = torch.arange(len(length), device=codes.device)
    row = torch.repeat_interleave(at, length, output_size=sum(entries))
    return Codes(
        crow,
        row,
        torch.cat(cols).long(),
        torch.cat(values),
        codes.d_sae,
        silent=codes.silent,
        per_row=codes.per_row,
    )


def gather_rows(tensor: Tensor, world: World, *, rows: Sequence[int], what: str) -> Tensor:
    """Returns `[sum of rows, ...]`: the rows of all processes, in the order of ranks.

    Args:
        tensor: `[own rows, ...]`.
        world: the processes.
        rows: rows of each of them.
        what: what is waited for, in words.
    """
    if not world.shared:
        return tensor
    sent = tensor.new_zeros(max(rows), *tensor.shape[1:])
    sent[: len(tensor)] = tensor
    got = world.gather(sent, what)
    return torch.cat([part[:n] for part, n in zip(got, rows, strict=True)])


def _put(sent: Tensor, start: int, values: Tensor) -> None:
    data = values.contiguous().view(torch.uint8)
    sent[start : start + len(data)] = data


def _taken(part: Tensor, start: int, n: int, dtype: torch.dtype) -> Tensor:
    return part[start : start + n * dtype.itemsize].clone().view(dtype)
