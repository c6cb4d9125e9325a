"""One step: activations -> codes -> pairs -> penalty -> step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from topk_ortho.constraint import schedules
from topk_ortho.machine.spans import span
from topk_ortho.sae import Forward
from topk_ortho.training import losses
from topk_ortho.training.evidence import step_evidence
from topk_ortho.training.finite import check_finite
from topk_ortho.training.state import TrainState


@dataclass(frozen=True)
class Step:
    """What one step computed, detached; scalars are tensors, read only by whoever logs them."""

    x: Tensor
    out: Forward
    loss: Tensor
    l2: Tensor
    penalty: Tensor
    aux: Tensor
    lr: float
    sparsity_weight: float


def train_step(state: TrainState, x: Tensor) -> Step:
    """Train on `x` `[batch, d_in]` and return what happened.

    Raises:
        NotFiniteError: before the optimiser moves anything; it names the tensor.
    """
    config, sae = state.config, state.sae
    lr = schedules.learning_rate(
        state.step,
        peak=config.lr,
        steps=config.steps,
        warmup_steps=config.warmup_steps,
        decay_fraction=config.decay_fraction,
    )
    autocast = torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda")
    with span("forward"), autocast:
        out = sae(x, sparse=state.sparse)
        l2 = losses.reconstruction(x, out.x_hat)
        loss = l2
        weight = state.sparsity_weight
        if weight:
            loss = loss + weight * losses.sparsity(sae, out)
        dead = state.firing.dead(config.sae.dead_after)
        aux = l2.new_zeros(())
        if config.sae.aux_k and dead.numel():
            aux = losses.aux_k(sae, x, out, dead)
            loss = loss + config.sae.aux_coefficient * aux

    check_finite(state, x, out, loss)
    codes = out.codes
    state.firing.update(codes.counts(), batch=codes.batch)
    penalty = l2.new_zeros(())
    if state.constraint is not None:
        needs = state.constraint.needs(state.step)
        with span("scores"):
            evidence = step_evidence(
                needs, sae=sae, firing=state.firing, x=x, out=out, l2=l2, codes=codes
            )
        penalty = state.constraint(codes, sae.W_dec, state.firing.rate, state.step, evidence)
        loss = loss + penalty

    state.optimizer.zero_grad()
    with span("backward"):
        loss.backward()
    with span("optimiser"):
        sae.remove_parallel_gradient_()
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in sae.parameters() if p.grad is not None]
        )
        check_finite(state, x, out, loss + norm)
        clip = config.grad_clip
        if clip and (norm.is_cuda or norm > clip):  # a GPU multiplies by 1 sooner than it tells
            torch.nn.utils.clip_grads_with_norm_(sae.parameters(), clip, norm)
        state.optimizer.step(lr)
        sae.normalise_decoder_()
    if weight:
        state.sparsity_weight = losses.steer(
            weight, l0=codes.nnz / codes.batch, target=config.sae.k
        )
    state.density = codes.nnz / (codes.batch * codes.d_sae)
    state.step += 1
    return Step(x, out, loss.detach(), l2.detach(), penalty.detach(), aux.detach(), lr, weight)
