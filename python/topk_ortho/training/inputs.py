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
    inputs: dict[str, Tensor] = {}
    if required & {"gradient", "energy"}:
        (gradient,) = torch.autograd.grad(l2, out.code, retain_graph=True)
        inputs["gradient"] = gradient if gradient.dim() == 1 else gradient[codes.row, codes.col]
    if "energy" in required:
        firing.update_energy(codes.column_sums(inputs["gradient"].float() ** 2))
        inputs["energy"] = firing.energy
    if "threshold" in required:
        firing.update_threshold(codes.column_minima())
        inputs["threshold"] = firing.threshold
    if "x" in required:
        inputs["x"] = (x - sae.centre).detach()
    if "pre" in required:
        prefiltered = out.pre.dtype != x.dtype and x.device.type == "cpu"
        inputs["pre"] = (sae.pre_acts(x) if prefiltered else out.pre).detach()
    for name in required & {"W_dec", "W_enc"}:
        inputs[name] = getattr(sae, name).detach()
    return {name: inputs[name] for name in required}
