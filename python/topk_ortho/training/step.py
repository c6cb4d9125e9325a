"""One step: activations -> codes -> pairs -> penalty -> step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from topk_ortho.constraint import schedules
from topk_ortho.machine.spans import span
from topk_ortho.sae import Forward
from topk_ortho.training import losses
from topk_ortho.training.finite import check_finite, check_later, check_unread
from topk_ortho.training.inputs import step_inputs
from topk_ortho.training.state import TrainState


@dataclass(frozen=True)
class Step:
    """The results of one step, detached; scalars are tensors, read only when they are logged.

    Attributes:
        x: `[batch, d_in]`.
        target: `[batch, d_out]`, what was reconstructed, `x` itself for an SAE.
    """

    x: Tensor
    target: Tensor
    out: Forward
    loss: Tensor
    l2: Tensor
    penalty: Tensor
    aux: Tensor
    lr: float
    sparsity_coefficient: float


@dataclass(frozen=True)
class Reconstruction:
    """A pass over a batch and the terms of its loss, attached to their graph."""

    out: Forward
    loss: Tensor
    l2: Tensor
    aux: Tensor


def train_step(state: TrainState, x: Tensor, target: Tensor | None = None) -> Step:
    """Train on `x` `[batch, d_in]` and return what happened.

    Args:
        state: the run.
        x: `[batch, d_in]`.
        target: `[batch, d_out]`, what is reconstructed; `x` unless given.

    Raises:
        NotFiniteError: before the optimiser moves anything; it names the tensor. On a GPU, where
            nothing moved either, the next step raises it.
    """
    check_unread(state)
    sae, constraint, weight = state.sae, state.constraint, state.sparsity_coefficient
    target = x if target is None else target
    found = reconstruct(state, x, target)
    loss, codes = found.loss, found.out.codes
    if not loss.is_cuda:
        check_finite(state, x, found.out, loss, target=target)
    state.firing.update(codes.counts(), batch=codes.batch)
    state.firing.count_dead(state.config.sae.dead_after, state.transfer)

    penalty = loss.new_zeros(())
    if constraint is not None:
        inputs = _inputs(state, constraint.required_inputs(state.step), x, found)
        pairs = constraint.select(codes, step=state.step, **inputs)
        rate = state.firing.rate
        active = constraint.activity(found.out.code, codes, step=state.step)
        penalty = constraint.penalty(
            pairs, sae.W_dec, step=state.step, firing_rate=rate, active=active
        )
        loss = loss + penalty

    state.optimizer.zero_grad()
    with span("backward"):
        loss.backward()
    with span("optimiser"):
        failed = clip(state, x, target, found, loss)
        lr = update(state, failed)
    count(state, [codes.nnz], [codes.batch])
    return Step(
        x, target, found.out, loss.detach(), found.l2.detach(), penalty.detach(),
        found.aux.detach(), lr, weight,
    )  # fmt: skip


def reconstruct(state: TrainState, x: Tensor, target: Tensor) -> Reconstruction:
    """Returns the codes of the batch, their reconstruction, and its loss without the penalty."""
    config, sae = state.config, state.sae
    autocast = torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda")
    with span("forward"), autocast:
        out = sae.training_pass(x, sparse=state.sparse)
        l2 = losses.reconstruction(target, out.x_hat)
        loss = l2
        if state.sparsity_coefficient:
            loss = loss + state.sparsity_coefficient * sae.sparsity(out)
        dead = state.firing.dead(config.sae.dead_after)
        aux = l2.new_zeros(())
        if config.sae.aux_k and dead.numel():
            aux = losses.aux_k(sae, x, out, dead, target=target)
            loss = loss + config.sae.aux_coefficient * aux
    return Reconstruction(out, loss, l2, aux)


def _inputs(
    state: TrainState, required: frozenset[str], x: Tensor, found: Reconstruction
) -> dict[str, Tensor]:
    """Returns the criterion's inputs on this step besides the codes."""
    out = found.out
    with span("scores"):
        return step_inputs(
            required,
            sae=state.sae,
            firing=state.firing,
            x=x,
            out=out,
            l2=found.l2,
            codes=out.codes,
        )


def clip(
    state: TrainState, x: Tensor, target: Tensor, found: Reconstruction, loss: Tensor
) -> Tensor | None:
    """Check the gradients of all parameters, and scale them down where they are too large.

    Returns:
        On a GPU, where the host reads the outcome later, a scalar: 1 where nothing may move.
    """
    sae, clip = state.sae, state.config.grad_clip
    sae.remove_parallel_gradient_()
    norm = torch.nn.utils.get_total_norm([p.grad for p in sae.parameters() if p.grad is not None])
    failed = None
    if norm.is_cuda:
        failed = check_later(state, x, found.out, loss + norm, target=target)
    else:
        check_finite(state, x, found.out, loss + norm)
    if clip and (norm.is_cuda or norm > clip):  # on a GPU, multiplying by 1 is faster than asking
        torch.nn.utils.clip_grads_with_norm_(sae.parameters(), clip, norm)
    return failed


def update(state: TrainState, failed: Tensor | None) -> float:
    """Move the parameters, unless `failed`; returns the learning rate."""
    config = state.config
    lr = schedules.learning_rate(
        state.step,
        peak=config.lr,
        steps=config.steps,
        warmup_steps=config.warmup_steps,
        decay_fraction=config.decay_fraction,
    )
    if failed is not None:
        state.optimizer.skip_where(failed)
    state.optimizer.step(lr)
    state.sae.normalise_decoder_()
    return lr


def count(state: TrainState, entries: Sequence[int], rows: Sequence[int]) -> None:
    """Update what the next step depends on: the sparsity coefficient, the density, the number.

    Args:
        state: the run.
        entries: active entries of the batch, by the process that has them.
        rows: its rows, by process.
    """
    nnz, batch = sum(entries), sum(rows)
    if state.sparsity_coefficient:
        state.sparsity_coefficient = losses.steer(
            state.sparsity_coefficient, l0=nnz / batch, target=state.config.sae.k
        )
    state.density = nnz / (batch * state.config.sae.d_sae)
    state.step += 1
