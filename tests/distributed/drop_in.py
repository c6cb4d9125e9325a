"""A host's own loop under DDP with the constraint in one line, in every process that is started.

`python -m tests.distributed.drop_in FOLDER` under torchrun; writes what it found to `rank-N.json`.
One process computes the same by itself, on the rows of all, as what the others are compared with.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from topk_ortho import Orthogonality, OrthogonalityConfig
from topk_ortho.config import ConfigError, PairsConfig, PenaltyConfig
from topk_ortho.constraint.every_process import Scope

STEPS, ROWS, D_IN, D_SAE, K = 12, 64, 16, 96, 6


class Small(nn.Module):
    """A TopK SAE whose forward pass returns the codes and the loss."""

    def __init__(self, d_sae: int = D_SAE) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(d_sae, D_IN, generator=generator)
        self.W_dec = nn.Parameter(nn.functional.normalize(rows, dim=1))
        self.W_enc = nn.Parameter(self.W_dec.detach().T.clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        top = (x @ self.W_enc).relu().topk(K, dim=1)
        acts = torch.zeros(len(x), self.W_enc.shape[1]).scatter(1, top.indices, top.values)
        return acts, (x - acts @ self.W_dec).pow(2).sum(1).mean()


def batches(rank: int | None, size: int) -> list[Tensor]:
    """The rows of one process, or of all of them where `rank` is None."""
    generator = torch.Generator().manual_seed(1)
    every = [torch.randn(ROWS, D_IN, generator=generator) for _ in range(STEPS)]
    return every if rank is None else [x[rank * ROWS // size :][: ROWS // size] for x in every]


def settings(*, refresh_every: int = 1, **more: Any) -> OrthogonalityConfig:
    penalty = PenaltyConfig(ramp=0, refresh_every=refresh_every)
    return OrthogonalityConfig(
        steps=STEPS, pairs=PairsConfig(per_feature=2), penalty=penalty, **more
    )


def trained(
    sae: Small,
    forward: Callable[[Tensor], tuple[Tensor, Tensor]],
    penalty: Orthogonality,
    data: list[Tensor],
    *,
    first: int = 0,
) -> dict[str, Any]:
    """Trains, and returns the pairs, penalties and gradients of every step."""
    found: dict[str, Any] = {"pairs": [], "penalty": [], "gradient": []}
    for step, x in enumerate(data[first:], start=first):
        acts, loss = forward(x)
        share = penalty(acts, sae.W_dec, step, target=x)
        sae.zero_grad()
        (loss + share).backward()
        assert sae.W_dec.grad is not None
        selection = penalty.selection
        assert selection is not None
        found["pairs"].append([t.tolist() for t in (selection.i, selection.j, selection.score)])
        found["penalty"].append(float(share))
        found["gradient"].append(sae.W_dec.grad.flatten()[:500].tolist())
        with torch.no_grad():  # the same steps, whatever gradients are rounded to
            generator = torch.Generator().manual_seed(step)
            sae.W_dec.add_(0.05 * torch.randn(sae.W_dec.shape, generator=generator))
    assert penalty.firing is not None
    found["rate"] = penalty.firing.rate.tolist()
    return found


def by_itself(penalty: Orthogonality, data: list[Tensor]) -> dict[str, Any]:
    """Pairs and firing rates of an SAE whose loss is no part of DDP."""
    sae = Small()
    found = trained(sae, sae, penalty, data)
    return {name: found[name] for name in ("pairs", "rate")}


def in_micro_batches(penalty: Orthogonality, data: list[Tensor]) -> dict[str, Any]:
    """The pairs of every step, and the firing rates, where a step comes in two micro-batches."""
    sae, pairs = Small(), []
    for step, x in enumerate(data):
        for part in x.chunk(2):
            penalty(sae(part)[0], sae.W_dec, step, target=part)
        assert penalty.selection is not None
        pairs.append([t.tolist() for t in (penalty.selection.i, penalty.selection.j)])
    assert penalty.firing is not None
    return {"pairs": pairs, "rate": penalty.firing.rate.tolist()}


def uneven(penalty: Orthogonality, every: list[Tensor], rank: int | None) -> dict[str, Any]:
    """The same where process 0 has as many rows as the step's number, none at first; codes are
    computed on all rows, since products of other shapes are rounded otherwise."""
    sae, pairs = Small(), []
    for step, x in enumerate(every):
        own = {None: slice(None), 0: slice(step), 1: slice(step, None)}[rank]
        penalty(sae(x)[0][own], sae.W_dec, step, target=x[own])
        assert penalty.selection is not None
        pairs.append([t.tolist() for t in (penalty.selection.i, penalty.selection.j)])
    assert penalty.firing is not None
    return {"pairs": pairs, "rate": penalty.firing.rate.tolist()}


def refused(scope: Scope, d_sae: int, step: int) -> str:
    """What a call says, if anything."""
    sae = Small(d_sae)
    penalty = Orthogonality(settings(variance=16.0), scope=scope)
    acts, _ = sae(batches(None, 1)[0])
    try:
        penalty(acts, sae.W_dec, step)
    except ConfigError as error:
        return str(error)
    return ""


def of_shards(data: list[Tensor]) -> list[Any]:
    """The penalty of a decoder in shards, and its gradient with all shards together."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    sae = Small()
    acts, _ = sae(data[0])
    W_dec = distribute_tensor(sae.W_dec.detach(), mesh, [Shard(0)]).requires_grad_()
    value = Orthogonality(settings(variance=16.0))(acts, W_dec, 0)
    value.backward()
    whole = Orthogonality(settings(variance=16.0))(acts, sae.W_dec, 0)
    (expected,) = torch.autograd.grad(whole, sae.W_dec)
    return [float(value), float(whole), torch.equal(W_dec.grad.full_tensor(), expected)]


def checks() -> dict[str, Any]:
    rank, size = dist.get_rank(), dist.get_world_size()
    data, every = batches(rank, size), batches(None, size)
    sae = Small()
    wrapped = DistributedDataParallel(sae)
    penalty = Orthogonality(settings())
    found = {"together": trained(sae, wrapped, penalty, data)}
    found["local"] = trained(one := Small(), one, Orthogonality(settings(), scope="local"), data)
    found["group"] = [refused("global", D_SAE + rank, 0), refused("global", D_SAE, rank),
                      refused("local", D_SAE + rank, rank)]  # fmt: skip
    found["weighed"] = weighed(data[0])
    both, own = dist.new_group([0, 1]), [dist.new_group([r]) for r in range(size)][rank]
    found["both"] = by_itself(Orthogonality(settings(), process_group=both), data)
    found["own"] = by_itself(Orthogonality(settings(), process_group=own), data)
    found["uneven"] = uneven(Orthogonality(settings()), every, rank)
    found["seldom"] = by_itself(Orthogonality(settings(refresh_every=3)), data)
    found["parts"] = in_micro_batches(Orthogonality(settings(micro_batches=2)), data)
    found["shards"] = of_shards(data)
    found["state"] = sorted(penalty.state_dict())
    if rank == 0:
        alone = Orthogonality(settings(), scope="local")
        found["alone"] = trained(again := Small(), again, alone, every)
        kept = Orthogonality(settings(refresh_every=3), scope="local")
        found["alone, seldom"] = by_itself(kept, every)
        found["alone, uneven"] = uneven(Orthogonality(settings(), scope="local"), every, None)
        whole = Orthogonality(settings(micro_batches=2), scope="local")
        found["alone, parts"] = in_micro_batches(whole, every)
        resumed = Orthogonality(settings(), scope="local")
        resumed.load_state_dict(penalty.state_dict(), d_sae=D_SAE)
        assert resumed.firing is not None
        found["resumed"] = [resumed.firing.rate.tolist(), len(resumed.history)]
    return found


def weighed(x: Tensor) -> str:
    sae = Small()
    acts, _ = sae(x)
    config = OrthogonalityConfig(
        pairs=PairsConfig(criterion="c2r"), penalty=PenaltyConfig(), steps=STEPS
    )
    with pytest.raises(ConfigError) as error:
        Orthogonality(config)(acts, sae.W_dec, 0, target=x)
    return str(error.value)


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    out = Path(sys.argv[1]) / f"rank-{dist.get_rank()}.json"
    out.write_text(json.dumps(checks()))
    dist.barrier()
    dist.destroy_process_group()
