"""The terms of one step's loss, besides the penalty (method 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.sae import SAE, Forward


def reconstruction(x: Tensor, x_hats: tuple[Tensor, ...]) -> Tensor:
    """Squared error summed over `d_in`, mean over the batch and over the reconstructions."""
    errors = [(x - x_hat).pow(2).sum(1).mean() for x_hat in x_hats]
    return torch.stack(errors).mean() if len(errors) > 1 else errors[0]


def aux_k(sae: SAE, x: Tensor, out: Forward, dead: Tensor) -> Tensor:
    """Error of the `aux_k` best dead features on the residual (Gao et al. 2024, appendix A.2).

    Args:
        sae: its `W_dec` `[d_sae, d_in]` decodes.
        x: `[batch, d_in]`.
        out: the pass over `x`.
        dead: `[n_dead]` int64, features that have not fired for long.
    """
    residual = (x - out.x_hat[-1]).detach()
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
