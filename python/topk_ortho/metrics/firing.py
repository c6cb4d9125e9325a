"""Firing features: columns and entries of codes of any kind, dense or sparse, on any device.

A feature fires where its code is above 0. Codes may be floating point, whole numbers or booleans;
sparse layouts are COO, CSR and CSC, and entries that are given twice add up.
"""

from __future__ import annotations

import torch
from torch import Tensor


def firing(acts: Tensor) -> tuple[Tensor, Tensor]:
    """Returns `(row, feature)` `[nnz]` int64 of the entries above 0 of `acts` `[rows, d_sae]`.

    Raises:
        ValueError: not two-dimensional, or a value that is not finite.
    """
    row, col, value = _entries(acts)
    fires = value > 0
    return row[fires], col[fires]


def columns(acts: Tensor, feature: Tensor) -> Tensor:
    """Returns the codes of some features, `[rows, len(feature)]`, dense, on the device of `acts`.

    Args:
        acts: `[rows, d_sae]`.
        feature: `[n]` int64; for -1 the column is 0.

    Returns:
        Values of the dtype of `acts` where it is floating point, else float32.

    Raises:
        ValueError: not two-dimensional, a feature that does not exist, or a value among these
            columns that is not finite.
    """
    _check_shape(acts)
    if feature.numel() and int(feature.max()) >= acts.shape[1]:
        raise ValueError(
            f"feature {int(feature.max())} was matched, but acts of shape {list(acts.shape)} have "
            f"{acts.shape[1]} features; pass the codes of the SAE that the matching was made for"
        )
    feature = feature.to(acts.device)
    known = (feature >= 0).nonzero().flatten()
    dtype = acts.dtype if acts.is_floating_point() else torch.float32
    out = torch.zeros(acts.shape[0], len(feature), dtype=dtype, device=acts.device)
    if acts.layout == torch.strided:
        out[:, known] = acts[:, feature[known]].to(dtype)
        _check_finite(out)
        return out
    row, col, value = _entries(acts)
    wanted, column = feature[known].unique(return_inverse=True)
    place = torch.full((acts.shape[1],), -1, dtype=torch.int64, device=acts.device)
    place[wanted] = torch.arange(len(wanted), device=acts.device)
    inside = place[col] >= 0
    chosen = out.new_zeros(acts.shape[0], len(wanted))
    chosen[row[inside], place[col[inside]]] = value[inside].to(dtype)
    out[:, known] = chosen[:, column]
    return out


def labels(on: Tensor) -> Tensor:
    """Returns which classes are on, `[rows, n_classes]` bool, dense: where `on` is above 0.

    Raises:
        ValueError: not two-dimensional, or a value that is not finite.
    """
    _check_shape(on)
    if on.dtype == torch.bool and on.layout == torch.strided:
        return on
    out = torch.zeros(on.shape, dtype=torch.bool, device=on.device)
    out[firing(on)] = True
    return out


def _entries(acts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and value of the entries that are not 0."""
    _check_shape(acts)
    acts = acts.detach()
    if acts.layout == torch.strided:
        row, col = acts.nonzero(as_tuple=True)
        value = acts[row, col]
    else:
        coo = acts.to_sparse_coo()
        if coo.dtype == torch.bool:  # which cannot be added up
            coo = torch.sparse_coo_tensor(
                coo._indices(), coo._values().float(), coo.shape, check_invariants=False
            )
        coo = coo.coalesce()
        row, col = coo.indices()
        value = coo.values()
    _check_finite(value)
    return row, col, value


def _check_shape(acts: Tensor) -> None:
    if acts.dim() != 2:
        raise ValueError(
            f"a tensor of shape {list(acts.shape)} was given, but one row per token and one column "
            "per feature (or class) was expected; flatten contexts into rows"
        )


def _check_finite(value: Tensor) -> None:
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise ValueError(
            "the codes hold a value that is not finite, and whether it fires cannot be said; look "
            "at the encoder's output"
        )
