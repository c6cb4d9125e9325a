"""The n largest of numbers that several processes hold: which of its own each of them keeps.

Every process may hold all of them, so each offers its own n largest: `4 * n` bytes a process.
Equal numbers are kept in the order of the processes, then of their places, which is the order of a
batch's rows and features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from topk_ortho.distributed.world import World
from topk_ortho.sae.largest import largest


def largest_of_all(values: Tensor, n: int, world: World) -> Tensor:
    """Places int64 of those of `values` `[size]` that are among the n largest of all processes.

    Args:
        values: this process's own, any number of them.
        n: how many are kept in all, no more than there are.
        world: the processes.
    """
    own = largest(values, min(n, values.numel()))
    best = values[own]
    offered = torch.full((n,), -torch.inf, dtype=values.dtype, device=values.device)
    offered[: len(best)] = best
    everything = world.gather(offered, "the largest pre-activations of the other processes")
    least = everything.flatten().topk(n, sorted=False).values.amin()
    tied = (everything == least).sum(1)
    left = n - (everything > least).sum() - tied[: world.rank].sum()
    taken = max(0, min(int(left), int(tied[world.rank])))
    kept = own[best > least]
    if not taken:
        return kept
    equal = own[best == least]
    if len(own) < values.numel() and bool(best.amin() == least):  # there may be more of them
        equal = (values == least).nonzero().squeeze(1)
    return torch.cat([kept, equal.sort().values[:taken]])
