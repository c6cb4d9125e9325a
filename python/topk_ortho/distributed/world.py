"""The processes of a run as one object, which everything asks that may run in many of them.

What a process waits for has a name and a timeout; an error names the rank, the step, and what was
waited for. Costs nothing where there is one process: `ALONE` never waits.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from topk_ortho.config import ConfigError
from topk_ortho.distributed.launcher import Launched, launched
from topk_ortho.machine.interrupt import Interrupted

TIMEOUT = 600.0
"""Seconds that a process waits for the others."""


class PeerError(RuntimeError):
    """Another process ended, failed or did not answer in time; says what was waited for."""


def nobody_asks() -> int:
    """Returns 0: no signal asks this process to end."""
    return 0


class World:
    """The processes that train together, and the group that they speak in.

    Args:
        place: this process among them.
        timeout: seconds that one waits for the others.
        group: the process group; None for the default one.
        store: keys that all of them see, for what process 0 does by itself; None where all that
            is asked for is collectives.

    Attributes:
        step: the step that is being taken, for messages.
        asked: returns the number of the signal that asks this process to end, 0 for none.
        agreed: such a number of any process, which all learnt on the same step; 0 for none.
    """

    def __init__(
        self,
        place: Launched,
        *,
        timeout: float = TIMEOUT,
        group: Any = None,
        store: Any = None,
    ) -> None:
        self.place, self.rank, self.size = place, place.rank, place.size
        self.timeout, self.group, self.store = timeout, group, store
        self.step = 0
        self.asked: Callable[[], int] = nobody_asks
        self.agreed = 0
        self.sections = 0

    def __repr__(self) -> str:
        return f"World(process {self.rank} of {self.size})"

    @property
    def shared(self) -> bool:
        """Returns whether there are other processes."""
        return self.size > 1

    @property
    def first(self) -> bool:
        """Returns whether this is the process that writes."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """Returns which rows of a batch are this process's: a contiguous range."""
        return slice(batch * self.rank // self.size, batch * (self.rank + 1) // self.size)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Give an error of a collective inside a name.

        Raises:
            PeerError: the others did not take part.
        """
        started = time.monotonic()
        try:
            yield
        except Interrupted:
            raise
        except RuntimeError as error:
            raise self.lost(what, time.monotonic() - started, _short(error)) from error

    def lost(self, what: str, seconds: float, why: str) -> PeerError:
        """Returns the error of a process that waited for others in vain."""
        return PeerError(
            f"process {self.rank} of {self.size}, step {self.step}: waited {seconds:.1f} s for "
            f"{what}, but another process ended or did not answer within {self.timeout:g} s "
            f"({why}); look at the messages of the others, then resume with --resume."
        )

    def gather(self, tensor: Tensor, what: str) -> Tensor:
        """Returns `[size, *shape]`: a tensor of the same shape from every process."""
        if not self.shared:
            return tensor[None]
        out = tensor.new_empty(self.size * tensor.numel())
        with self.waiting(what):
            dist.all_gather_into_tensor(out, tensor.contiguous().flatten(), group=self.group)
        return out.view(self.size, *tensor.shape)

    def numbers(self, own: list[int], what: str) -> list[list[int]]:
        """Returns some whole numbers of every process, in the order of their ranks."""
        if not self.shared:
            return [own]
        sent = torch.tensor(own, dtype=torch.int64, device=self._for_numbers())
        return self.gather(sent, what).tolist()

    def add_up_(self, tensor: Tensor, what: str) -> Tensor:
        """Replace a tensor by its sum over all processes, and return it."""
        if self.shared:
            with self.waiting(what):
                dist.all_reduce(tensor, group=self.group)
        return tensor

    def from_first(self, tensor: Tensor, what: str) -> Tensor:
        """Replace a tensor by that of the first process, and return it."""
        if self.shared:
            with self.waiting(what):
                source = 0 if self.group is None else dist.get_global_rank(self.group, 0)
                dist.broadcast(tensor, source, group=self.group)
        return tensor

    def _for_numbers(self) -> torch.device:
        """Returns where small tensors are exchanged: on the host unless the group cannot."""
        group: Any = dist.group.WORLD if self.group is None else self.group
        if any(device.type == "cpu" for device in group._device_types):
            return torch.device("cpu")
        return torch.device("cuda", torch.cuda.current_device())


ALONE = World(Launched())
"""One process by itself."""


@contextmanager
def joined(timeout: float = TIMEOUT) -> Iterator[World]:
    """A context in which this process is one of those that its launcher started; `ALONE` without.

    Args:
        timeout: seconds that one process waits for the others.

    Raises:
        ConfigError: the others cannot be reached, or the variables of the launcher are not whole.
    """
    place = launched()
    if place.size == 1 and not (dist.is_available() and dist.is_initialized()):
        yield ALONE
        return
    if dist.is_initialized():
        place = Launched(
            dist.get_rank(), dist.get_world_size(), place.local_rank, place.local_size,
            place.restarts, place.most_restarts,
        )  # fmt: skip
        store = dist.distributed_c10d._get_default_store()
        own = dist.PrefixStore(f"topk-ortho/{next(_meetings)}", store)
        yield World(place, timeout=timeout, store=own)
        return
    store = _meet(place, timeout)
    try:
        yield World(place, timeout=timeout, store=store)
    finally:
        dist.destroy_process_group()


def _meet(place: Launched, timeout: float) -> Any:
    """Returns the store of a new default group.

    Keys are of this meeting alone: the launcher keeps its store when it starts processes again, and
    one process may train several times, and addresses of an earlier group lead nowhere.
    """
    meeting = f"{place.restarts}/{next(_meetings)}"
    limit = timedelta(seconds=timeout)
    cuda = torch.cuda.is_available()
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=limit))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=dist.PrefixStore(f"group/{meeting}", store),
            rank=rank,
            world_size=size,
            timeout=limit,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"process {place.rank} of {place.size} could not reach the others within "
            f"{timeout:g} s ({_short(error)}); check that as many were started, and MASTER_ADDR "
            "and MASTER_PORT."
        ) from error
    return dist.PrefixStore(f"topk-ortho/{meeting}", store)


_meetings = itertools.count()
"""Numbers of the groups that this process was in."""


def of_group(group: Any = None) -> World:
    """Returns the processes of a group that a host made, `ALONE` where it made none.

    Args:
        group: the process group; the default one unless given.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    if size == 1:
        return ALONE
    if rank < 0:
        raise ConfigError(
            "a process group was given that this process is not in; give it only to its members."
        )
    return World(Launched(rank, size), group=group)


def _short(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
