"""What the room of processes does, one check after another, in every process that is started.

`python -m tests.distributed.collectives FOLDER` under torchrun; writes what it found to
`rank-N.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from topk_ortho.config import ConfigError
from topk_ortho.distributed.agreement import DisagreementError, check_agreement, checksum
from topk_ortho.distributed.codes import gather_codes
from topk_ortho.distributed.first import by_first
from topk_ortho.distributed.world import PeerError, World, joined
from topk_ortho.sae.largest_of_all import largest_of_all
from topk_ortho.sparse.codes import Codes


def same_codes(world: World, bounds: list[int]) -> bool:
    """Whether parts of a batch, cut at `bounds`, are gathered to the batch."""
    generator = torch.Generator().manual_seed(1)
    acts = torch.relu(torch.randn(12, 40, generator=generator))
    acts[5] = 0
    whole = Codes.of(acts)
    part = Codes.of(acts[bounds[world.rank] : bounds[world.rank + 1]])
    every = world.numbers([part.batch, part.nnz], "sizes")
    got = gather_codes(part, world, rows=[r for r, _ in every], entries=[e for _, e in every])
    return all(
        torch.equal(getattr(got, name), getattr(whole, name))
        for name in ("crow", "row", "col", "value")
    )


def kept(world: World, values: torch.Tensor, n: int) -> list[int]:
    """The places among all values, cut alike, that the processes keep together."""
    cuts = [len(values) * rank // world.size for rank in range(world.size + 1)]
    own = values[cuts[world.rank] : cuts[world.rank + 1]]
    places = torch.zeros(len(values), dtype=torch.int64)
    places[largest_of_all(own, n, world) + cuts[world.rank]] = 1
    return world.add_up_(places, "places").nonzero().flatten().tolist()


def of_first(world: World) -> list[Any]:
    """What all learn from process 0: a value, an error of the configuration, another error."""

    def refuse() -> None:
        raise ConfigError("no room for it")

    def full() -> None:
        raise OSError(28, "No space left on device")

    found = [by_first(world, "an answer", lambda: {"answer": 42})]
    for work in (refuse, full):
        with pytest.raises((ConfigError, OSError, PeerError)) as error:
            by_first(world, "a disk", work)
        found.append([type(error.value).__name__, str(error.value)])
    return found


def checks(world: World) -> dict[str, Any]:
    size = world.size
    values = torch.randn(120, generator=torch.Generator().manual_seed(2))
    one_has_all = torch.arange(120.0)
    equal = torch.tensor([3.0, 1.0, 2.0, 2.0] * 30)
    sums = world.numbers([checksum(torch.tensor([1.0, 2.0 + (world.rank == 1)])), 0, 0], "sums")
    with pytest.raises(DisagreementError) as error:
        check_agreement(7, sums)
    return {
        "even": same_codes(world, [12 * r // size for r in range(size + 1)]),
        "uneven": same_codes(world, [0, *([7] * (size - 1)), 12]),
        "one has all": same_codes(world, [0, *([12] * size)]),
        "largest": kept(world, values, 30) == sorted(values.topk(30).indices.tolist()),
        "all winners": kept(world, one_has_all, 25) == list(range(95, 120)),
        "ties": kept(world, equal, 40),
        "first": of_first(world),
        "disagreement": str(error.value),
    }


if __name__ == "__main__":
    with joined(30) as joint:
        Path(sys.argv[1], f"rank-{joint.rank}.json").write_text(json.dumps(checks(joint)))
