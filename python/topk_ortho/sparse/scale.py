"""Rows of any scale: norms and directions where the squares of the entries would leave the range.

A power of two changes no digit, so rows that need no scaling keep every bit, and the others come
back exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Norms between its inverse and this: their products, and quotients by norms, stay in float32.
SAFE = 2.0**32


def at_safe_scale(rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns `(rows, norm, exponent)`: rows that can be multiplied, and how they were scaled.

    Args:
        rows: `[n, width]`, float32 or float64.

    Returns:
        `rows` themselves and None as long as their norms are safe or nothing helps (0, infinite,
        NaN); otherwise a copy, in which `2 ** exponent` `[n]` has brought the others near norm 1.
        On CUDA, where a question about the data makes the host wait, always the copy.
    """
    norm = torch.linalg.vector_norm(rows, dim=1)
    outside = ~((norm > 1 / SAFE) & (norm < SAFE))  # NaN too
    if rows.is_cuda:
        exponent = _exponent(rows, outside)
        rows = times_two_to_the(rows, exponent)
        return rows, torch.linalg.vector_norm(rows, dim=1), exponent
    if not bool(outside.any()):
        return rows, norm, None
    at = outside.nonzero().squeeze(1)
    some = rows[at]
    powers = _exponent(some, outside[at])
    if not bool(powers.any()):
        return rows, norm, None
    exponent = torch.zeros(len(rows), dtype=torch.int32, device=rows.device)
    exponent[at] = powers
    some = times_two_to_the(some, powers)
    rows, norm = rows.clone(), norm.clone()
    rows[at], norm[at] = some, torch.linalg.vector_norm(some, dim=1)
    return rows, norm, exponent


def _exponent(rows: Tensor, outside: Tensor) -> Tensor:
    """The power of two that brings each row `outside` near norm 1; 0 where none does, or needs."""
    largest = rows.abs().amax(1)
    helped = outside & torch.isfinite(largest) & (largest > 0)
    return torch.where(helped, -torch.frexp(largest).exponent, 0)


def times_two_to_the(rows: Tensor, exponent: Tensor) -> Tensor:
    """Returns rows `[n, width]` times `2 ** exponent` `[n]`, infinite beyond the dtype's range."""
    half = exponent // 2  # the whole power may be beyond the dtype where the product is not
    for part in (half, exponent - half):
        rows = rows * torch.exp2(part.to(rows.dtype))[:, None]
    return rows


def row_norms(rows: Tensor) -> Tensor:
    """Returns the `[n]` float32 Euclidean norms of rows `[n, width]` of any dtype and scale."""
    if rows.is_cuda:  # no waiting for an answer, and float64 is cheap beside the rest
        return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).float()
    norm = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32)
    outside = ~((norm > 1 / SAFE) & (norm < SAFE))
    if bool(outside.any()):
        at = outside.nonzero().squeeze(1)
        norm[at] = torch.linalg.vector_norm(rows[at].double(), dim=1).float()
    return norm


def unit_rows_(rows: Tensor) -> None:
    """Divide rows `[n, width]`, float32 or float64, by their norms; a row of zeros stays."""
    scaled, norm, exponent = at_safe_scale(rows)
    if exponent is not None:
        rows.copy_(scaled)
    rows.div_(torch.where(norm == 0, 1, norm)[:, None])
