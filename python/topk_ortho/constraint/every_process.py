"""The batch of all processes, where a host trains copies of one SAE in several (DDP).

Every process then has the same codes, and so the same pairs, firing rates and penalty, bit for bit;
an average of gradients, as DDP takes, leaves the penalty's as it is. One exchange of sizes a call,
and one of codes where pairs are chosen. Costs nothing where there is one process.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from topk_ortho.config import ConfigError
from topk_ortho.config.errors import one_of
from topk_ortho.distributed.agreement import EVERY, checksum
from topk_ortho.distributed.codes import gather_codes
from topk_ortho.distributed.world import ALONE, World, of_group
from topk_ortho.sparse.codes import Codes

Scope = Literal["global", "local"]


class EveryProcess:
    """The processes whose rows belong to one batch.

    Args:
        scope: `global`: those of the group; `local`: this one alone, as where each process has an
            SAE of its own.
        group: the process group; the default one unless given.
    """

    def __init__(self, scope: Scope = "global", group: Any = None) -> None:
        self.scope = one_of("scope", scope, ("global", "local"))
        self._group = group
        self._world: World | None = None

    @property
    def world(self) -> World:
        """Returns the processes; a host makes its group when it likes, before the first call."""
        if self._world is None:
            self._world = ALONE if self.scope == "local" else of_group(self._group)
        return self._world

    def batch(
        self, codes: Codes, W_dec: Tensor, *, step: int, whole: bool, alike: bool = True
    ) -> tuple[Codes, Tensor, int]:
        """Returns codes, `[d_sae]` how often features fire, and the number of rows.

        Args:
            codes: those of this process's rows.
            W_dec: `[d_sae, d_out]`, compared now and then.
            step: the step's number, the same in every process.
            whole: whether the codes are needed of all rows; else they are this process's own.
            alike: whether all pairs weigh alike; weights by activity are of one process's rows.

        Raises:
            ConfigError: the processes train different SAEs, are at different steps, or weigh pairs
                by activity.
            PeerError: another one ended, or did not call.
        """
        world = self.world
        if not world.shared:
            return codes, codes.counts(), codes.batch
        if not alike:
            raise ConfigError(
                f"pairs that are weighed by activity were asked for in {world.size} processes, but "
                'such weights are of one process\'s rows; pass scope="local", or leave '
                "penalty.pair_weight out."
            )
        world.step = step
        weights = checksum(W_dec) if step % EVERY == 0 else 0
        what = "the other processes to call the constraint"
        own = [codes.d_sae, step, weights, codes.batch, codes.nnz]
        every = world.numbers(own, what)
        _check_same(every, step)
        rows = [numbers[3] for numbers in every]
        if not whole:
            counts = world.add_up_(codes.counts(), "the firing rates of the other processes")
            return codes, counts, sum(rows)
        codes = gather_codes(codes, world, rows=rows, entries=[numbers[4] for numbers in every])
        return codes, codes.counts(), sum(rows)


def _check_same(every: list[list[int]], step: int) -> None:
    named = {"features": 0, "steps": 1, "checksums of W_dec": 2}
    for name, at in named.items():
        found = [numbers[at] for numbers in every]
        if len(set(found)) > 1:
            raise ConfigError(
                f"step {step}: the processes have the {name} {found}, but copies of one SAE at one "
                'step were expected; pass scope="local" where each process trains its own, or the '
                "process_group of those that share one."
            )
