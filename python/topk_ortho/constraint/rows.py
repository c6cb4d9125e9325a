"""A host's decoder in the method's form: one row per feature, and codes of unit rows (method 1)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from topk_ortho.config import ConfigError
from topk_ortho.sparse.codes import Codes
from topk_ortho.sparse.scale import row_norms

Orientation = Literal["auto", "rows", "columns"]

# Deviation from unit norm that is left where a trainer normalises rows, in bfloat16 too.
UNIT_WITHIN = 0.01


def decoder_rows(W_dec: Tensor, d_sae: int, orientation: Orientation) -> Tensor:
    """Returns `[d_sae, d_out]`, contiguous; gradients go to `W_dec`.

    Args:
        W_dec: `[d_sae, d_out]` or `[d_out, d_sae]`; of a DTensor all rows are gathered.
        d_sae: the number of features in the codes.
        orientation: `auto` goes by the shape, which must not be square.

    Raises:
        ConfigError: the shape fits neither or both, or not what `orientation` says.
    """
    if hasattr(W_dec, "full_tensor"):  # a DTensor, as FSDP and tensor parallelism keep it
        W_dec = W_dec.full_tensor()
    shape = list(W_dec.shape)
    fits = {"rows": shape[:1] == [d_sae], "columns": shape[1:] == [d_sae]}
    if W_dec.dim() != 2 or not any(fits.values()):
        raise ConfigError(
            f"a decoder of shape {shape} was given with codes of {d_sae} features, but "
            f"[{d_sae}, d_out] or [d_out, {d_sae}] was expected; pass the decoder of these codes."
        )
    if orientation == "auto":
        if all(fits.values()):
            raise ConfigError(
                f"a decoder of shape {shape} was given, which does not tell whether features are "
                'its rows or its columns; say it: OrthogonalityConfig(decoder="rows") or "columns".'
            )
        orientation = "rows" if fits["rows"] else "columns"
    if not fits[orientation]:
        raise ConfigError(
            f"a decoder of shape {shape} was given with {d_sae} features as its {orientation}, "
            "which they are not; leave `decoder` out, or correct it."
        )
    return W_dec.contiguous() if orientation == "rows" else _Transposed.apply(W_dec)


class _Transposed(torch.autograd.Function):
    """The transpose as a new tensor, and its gradient's as well: optimisers are slow on views."""

    @staticmethod
    def forward(ctx, W_dec: Tensor):
        return W_dec.T.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return grad.T.contiguous()


@torch.no_grad()
def codes_of_unit_rows(codes: Codes, W_dec: Tensor) -> Codes:
    """Returns the codes that decode to the same once `W_dec` `[d_sae, d_out]` has unit rows.

    Where rows have unit norm already, but for rounding, the codes are unchanged, bit for bit.

    Raises:
        ValueError: a row holds NaN.
    """
    norm = row_norms(W_dec.detach())
    low, high = torch.stack(norm.aminmax()).tolist()
    if max(1 - low, high - 1) <= UNIT_WITHIN:  # False if both are NaN
        return codes
    value = codes.value.float() * norm[codes.col]
    if low > 0:
        return replace(codes, value=value)
    if math.isnan(low):
        raise ValueError(
            f"the decoder row of feature {int(norm.isnan().nonzero()[0])} holds NaN, but numbers "
            "were expected; look at the last optimiser step."
        )
    left = value > 0  # a zero row decodes to nothing
    return Codes.from_entries(
        codes.row[left], codes.col[left], value[left], batch=codes.batch, d_sae=codes.d_sae
    )
