"""The inputs of the chosen criterion on one step, besides the codes."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.constraint.firing import Firing
from topk_ortho.sae import SAE, Forward
from topk_ortho.sparse.codes import Codes


def step_inputs(
    required: frozenset[str],
    *,
    sae: SAE,
    firing: Firing,
    x: Tensor,
    out: Forward,
    l2: Tensor,
    codes: Codes,
) -> dict[str, Tensor]:
    """Returns the tensors named in `required`, detached; running ones take this step in first.

    Args:
        required: names of `constraint.criteria.INPUTS`.
        sae: its `W_dec`, `W_enc` and `centre` are used.
        firing: keeps the running firing threshold and gradient energy of each feature.
        x: `[batch, d_in]`.
        out: the pass over `x`.
        l2: the reconstruction loss, still attached to its graph.
        codes: the codes of `out`.
    """
    own = inputs_of_rows(required, sae=sae, x=x, out=out, l2=l2, codes=codes)
    return running_inputs(required, sae=sae, firing=firing, codes=codes, of_rows=own)


OF_ENTRIES = ("gradient",)
"""Inputs that have a value for each active entry, and not for each row."""


def inputs_of_rows(
    required: frozenset[str],
    *,
    sae: SAE,
    x: Tensor,
    out: Forward,
    l2: Tensor,
    codes: Codes,
    share: float = 1.0,
) -> dict[str, Tensor]:
    """Returns the inputs that have a value for each row or entry; nothing is changed by it.

    Args:
        required: names of inputs.
        sae: what `out` is the pass of.
        x: `[rows, d_in]`.
        out: the pass over `x`.
        l2: the mean reconstruction loss of these rows.
        codes: those of `out`.
        share: of the whole batch that these rows are.
    """
    inputs: dict[str, Tensor] = {}
    if required & {"gradient", "energy"}:
        (gradient,) = torch.autograd.grad(l2, out.code, retain_graph=True)
        gradient = gradient if gradient.dim() == 1 else gradient[codes.row, codes.col]
        inputs["gradient"] = gradient if share == 1 else gradient * share
    if "x" in required:
        inputs["x"] = (x - sae.centre).detach()
    if "pre" in required:
        prefiltered = out.pre.dtype != x.dtype and x.device.type == "cpu"
        inputs["pre"] = (sae.pre_acts(x) if prefiltered else out.pre).detach()
    return inputs


def running_inputs(
    required: frozenset[str],
    *,
    sae: SAE,
    firing: Firing,
    codes: Codes,
    of_rows: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Returns all inputs, once the running ones have taken this step in.

    Args:
        required: names of inputs.
        sae: its `W_dec` and `W_enc` are used.
        firing: keeps the running firing threshold and gradient energy of each feature.
        codes: the codes of the whole batch.
        of_rows: what `inputs_of_rows` found on all rows of it.
    """
    inputs = dict(of_rows)
    if "energy" in required:
        firing.update_energy(codes.column_sums(inputs["gradient"].float() ** 2))
        inputs["energy"] = firing.energy
    if "threshold" in required:
        firing.update_threshold(codes.column_minima())
        inputs["threshold"] = firing.threshold
    for name in required & {"W_dec", "W_enc"}:
        inputs[name] = getattr(sae, name).detach()
    return {name: inputs[name] for name in required}
