"""What the chosen criterion asks for of one step, besides the codes."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.constraint.firing import Firing
from topk_ortho.sae import SAE, Forward
from topk_ortho.sparse.codes import Codes


def step_evidence(
    needs: frozenset[str],
    *,
    sae: SAE,
    firing: Firing,
    x: Tensor,
    out: Forward,
    l2: Tensor,
    codes: Codes,
) -> dict[str, Tensor]:
    """The tensors named in `needs`, detached; running ones take this step in first.

    Args:
        needs: names of `pairs.evidence.Evidence`.
        sae: its `W_dec`, `W_enc` and `b_dec` are looked at.
        firing: keeps the running firing threshold and gradient energy of each feature.
        x: `[batch, d_in]`.
        out: the pass over `x`.
        l2: the reconstruction loss, still attached to its graph.
        codes: the codes of `out`.
    """
    evidence: dict[str, Tensor] = {}
    if needs & {"gradient", "energy"}:
        (gradient,) = torch.autograd.grad(l2, out.code, retain_graph=True)
        evidence["gradient"] = gradient if gradient.dim() == 1 else gradient[codes.row, codes.col]
    if "energy" in needs:
        firing.update_energy(codes.column_sums(evidence["gradient"].float() ** 2))
        evidence["energy"] = firing.energy
    if "threshold" in needs:
        firing.update_threshold(codes.column_minima())
        evidence["threshold"] = firing.threshold
    if "x" in needs:
        evidence["x"] = (x - sae.b_dec).detach()
    if "pre" in needs:
        screened = out.pre.dtype != x.dtype and x.device.type == "cpu"
        evidence["pre"] = (sae.pre_acts(x) if screened else out.pre).detach()
    for name in needs & {"W_dec", "W_enc"}:
        evidence[name] = getattr(sae, name).detach()
    return {name: evidence[name] for name in needs}
