"""The terms of one step's loss, besides the penalty (method 1)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from topk_ortho.machine.forecast import Component, Shapes, between
from topk_ortho.sae import SAE, Forward


def reconstruction(target: Tensor, x_hats: tuple[Tensor, ...]) -> Tensor:
    """Squared error summed over `d_out`, mean over the batch and over the reconstructions."""
    errors = [(target - x_hat).pow(2).sum(1).mean() for x_hat in x_hats]
    return torch.stack(errors).mean() if len(errors) > 1 else errors[0]


def aux_k(
    sae: SAE, x: Tensor, out: Forward, dead: Tensor, *, target: Tensor | None = None
) -> Tensor:
    """Error of the `aux_k` best dead features on the residual (Gao et al. 2024, appendix A.2).

    Args:
        sae: its `W_dec` `[d_sae, d_out]` decodes.
        x: `[batch, d_in]`.
        out: the pass over `x`.
        dead: `[n_dead]` int64, features that have not fired for long.
        target: `[batch, d_out]`, what is reconstructed; `x` unless given.
    """
    residual = ((x if target is None else target) - out.x_hat[-1]).detach()
    pre = out.pre[:, dead] if out.pre.requires_grad else sae.pre_acts(x, dead)
    value, index = pre.topk(min(sae.config.aux_k, dead.numel()), dim=1, sorted=False)
    acts = torch.zeros(x.shape[0], dead.numel(), dtype=value.dtype, device=x.device)
    acts = acts.scatter(1, index, torch.relu(value))
    return (residual - acts @ sae.W_dec[dead]).pow(2).sum(1).mean()


def steer(coefficient: float, *, l0: float, target: float) -> float:
    """Returns the sparsity coefficient after a step: up while L0 is above `target`, else down."""
    ratio = max(0.5, min(2.0, l0 / target))
    return coefficient * ratio**STEERING


# At this gain the coefficient settles within a few hundred steps and then moves by less than 0.1 %.
STEERING = 0.03


def memory(s: Shapes) -> Iterator[Component]:
    """Yields errors of the reconstruction, and what aux-k holds once features have died."""
    where, graph = "--sae.aux-k, --batch-size", between("aux-k", "backward pass")
    errors = between("decoding", "backward pass")
    yield Component("errors and their gradients", 4 * s.rows_out, errors, "--batch-size")
    dead = _dead(s)
    codes, weights = round(dead * s.dense), round(dead * s.matrix)
    if s.sparse:  # the dense path has their pre-activations already
        weights += round(dead * s.encoder)
    yield Component("aux-k, codes", 2 * codes, ("aux-k",), where)
    # on a GPU they are gone before the gradients of the other codes come
    yield Component("aux-k, codes of the dead", codes, graph[:-1] if s.gpu else graph, where)
    yield Component("aux-k, weights", weights, graph, where)
    yield Component("aux-k, gradients", codes * (not s.gpu) + weights, graph[-1:], where)


def _dead(s: Shapes) -> float:
    """Share of the features that will have died: half of those that can have fired lately."""
    sae = s.config.sae
    if not sae.aux_k or s.config.steps <= sae.dead_after + 1:
        return 0.0
    return 1 - min(1.0, s.entries * (sae.dead_after + 1) / sae.d_sae) / 2
