"""One step of several processes: each with its rows of the batch, all with the same pairs.

Codes, firing rates, dead features, pairs and penalty are those of the whole batch, bit for bit what
one process would find on the same codes; the gradient of the reconstruction is added up. Nothing of
the state changes before the last exchange, so a process that ends leaves the others between two
steps. The penalty is computed by every process alike, which needs no exchange.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from topk_ortho.distributed.agreement import EVERY, NAMES, check_agreement, checksum
from topk_ortho.distributed.codes import gather_codes, gather_rows
from topk_ortho.distributed.world import PeerError, World
from topk_ortho.machine.spans import span
from topk_ortho.sparse.codes import Codes
from topk_ortho.training.finite import check_finite, check_unread
from topk_ortho.training.inputs import OF_ENTRIES, inputs_of_rows, running_inputs
from topk_ortho.training.state import TrainState
from topk_ortho.training.step import Reconstruction, Step, clip, count, reconstruct, update

MET = "the other processes to begin the step"
INPUTS = "the criterion's inputs of the other processes"


@dataclass(frozen=True)
class Met:
    """What the processes told each other at the beginning of a step.

    Attributes:
        rows: rows of each process.
        entries: active entries of each process.
    """

    rows: list[int]
    entries: list[int]


def divided_step(state: TrainState, x: Tensor, target: Tensor | None = None) -> Step:
    """Train on the batch of which `x` `[own rows, d_in]` are this process's rows.

    Args:
        state: the run, the same in every process.
        x: at least one row.
        target: `[own rows, d_out]`, what is reconstructed; `x` unless given.

    Returns:
        What happened: loss and codes of the whole batch, `x` and reconstruction of these rows.

    Raises:
        NotFiniteError: before the optimiser moves anything; it names the tensor.
        PeerError: another process ended, or met a number that is not finite; nothing has moved.
        DisagreementError: the processes hold different numbers.
    """
    check_unread(state)
    world, weight = state.world, state.sparsity_coefficient
    target = x if target is None else target
    found = reconstruct(state, x, target)
    met = _meet(state, x, target, found)
    codes, counts, inputs = _whole_batch(state, x, found, met)
    state.optimizer.zero_grad()
    share = len(x) / sum(met.rows)
    with span("backward"):
        (found.loss * share).backward()
    assert state.bucket is not None
    sums = state.bucket.add_up([share * t for t in (found.loss, found.l2, found.aux)], world)
    loss, l2, aux = sums

    # from here on the state changes, and nobody waits for anybody
    state.firing.update(counts, batch=sum(met.rows))
    state.firing.count_dead(state.config.sae.dead_after, state.transfer)
    penalty = _penalty(state, codes, inputs)
    if penalty.requires_grad:
        with span("backward"):
            penalty.backward()
    penalty = penalty.detach()
    found = replace(found, out=found.out._replace(codes=codes))
    with span("optimiser"):
        failed = clip(state, x, target, found, loss + penalty)
        lr = update(state, failed)
    count(state, met.entries, met.rows)
    return Step(x, target, found.out, loss + penalty, l2, penalty, aux, lr, weight)


def _meet(state: TrainState, x: Tensor, target: Tensor, found: Reconstruction) -> Met:
    """Exchange sizes, signals, checksums, and whether all numbers are finite."""
    world, codes = state.world, found.out.codes
    finite = found.loss.is_cuda or bool(torch.isfinite(found.loss))
    compared = state.step % EVERY == 0
    sums = checksums(state) if compared else [0] * len(NAMES)
    own = [state.step, len(x), codes.nnz, int(not finite), world.asked(), *sums]
    every = world.numbers(own, MET)
    if not finite:
        check_finite(state, x, found.out, found.loss, target=target)
    check_same_step([numbers[0] for numbers in every], world)
    if odd := [rank for rank, numbers in enumerate(every) if numbers[3]]:
        raise PeerError(
            f"process {world.rank} of {world.size}, step {state.step}: process {odd[0]} met a "
            "number that is not finite, and says which; nothing was changed by this step."
        )
    if compared:
        check_agreement(state.step, [numbers[5:] for numbers in every])
    world.agreed = max(numbers[4] for numbers in every)
    return Met([numbers[1] for numbers in every], [numbers[2] for numbers in every])


def checksums(state: TrainState) -> list[int]:
    """Returns the checksums of weights, firing rates and pairs, in the order of `NAMES`."""
    chosen = None if state.constraint is None else state.constraint.selection
    pairs = () if chosen is None else (chosen.i, chosen.j, chosen.score)
    weights = [p for _, p in sorted(state.sae.named_parameters())]
    return [
        checksum(*weights),
        checksum(state.firing.rate, state.firing.silent),
        checksum(*pairs),
    ]


def check_same_step(steps: list[int], world: World) -> None:
    """Refuse processes that are at different steps.

    Raises:
        PeerError: they are.
    """
    if len(set(steps)) > 1:
        raise PeerError(
            f"process {world.rank} of {world.size}: the processes are at steps {steps}, but all "
            "were expected at the same; start them with the same options, or resume with --resume."
        )


def _whole_batch(
    state: TrainState, x: Tensor, found: Reconstruction, met: Met
) -> tuple[Codes, Tensor, dict[str, Tensor]]:
    """Returns the codes of the batch, its counts by feature, and inputs that have rows.

    Where no pairs are chosen the codes are this process's own, and only their counts are added up.
    """
    world, constraint, codes = state.world, state.constraint, found.out.codes
    selects = constraint is not None and constraint.selects(state.step)
    if not selects:
        counts = world.add_up_(codes.counts(), "the firing rates of the other processes")
        return codes, counts, {}
    assert constraint is not None
    own: dict[str, Tensor] = {}
    if required := constraint.required_inputs(state.step):
        own = inputs_of_rows(
            required,
            sae=state.sae,
            x=x,
            out=found.out,
            l2=found.l2,
            codes=codes,
            share=len(x) / sum(met.rows),
        )
    whole = {
        name: gather_rows(
            tensor,
            world,
            rows=met.entries if name in OF_ENTRIES else met.rows,
            what=INPUTS,
        )
        for name, tensor in sorted(own.items())
    }
    codes = gather_codes(codes, world, rows=met.rows, entries=met.entries)
    return codes, codes.counts(), whole


def _penalty(state: TrainState, codes: Codes, of_rows: dict[str, Tensor]) -> Tensor:
    """Returns the penalty of the step, the same in every process."""
    constraint, sae, step = state.constraint, state.sae, state.step
    if constraint is None:
        return sae.W_dec.new_zeros(())
    inputs = running_inputs(
        constraint.required_inputs(step), sae=sae, firing=state.firing, codes=codes, of_rows=of_rows
    )
    pairs = constraint.select(codes, step=step, **inputs)
    return constraint.penalty(pairs, sae.W_dec, step=step, firing_rate=state.firing.rate)


def gathered(step: Step, world: World) -> Step:
    """Returns a step with the rows of all processes, for the log; every process has to ask."""
    codes, x_hat = step.out.codes, step.out.x_hat[-1].detach()
    own = [len(step.x), codes.nnz, codes.batch]
    every = world.numbers(own, "the log of the other processes")
    rows = [numbers[0] for numbers in every]
    if codes.batch != sum(rows):
        codes = gather_codes(codes, world, rows=rows, entries=[n[1] for n in every])
    what = "the reconstructions of the other processes"
    target = gather_rows(step.target, world, rows=rows, what=what)
    x = target if step.target is step.x else gather_rows(step.x, world, rows=rows, what=what)
    out = step.out._replace(codes=codes, x_hat=(gather_rows(x_hat, world, rows=rows, what=what),))
    return replace(step, x=x, target=target, out=out)
