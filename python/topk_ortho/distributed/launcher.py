"""The launcher's environment variables: rank, number of processes, restarts. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from topk_ortho.config import ConfigError

NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher sets; without all of them there is one process."""


@dataclass(frozen=True)
class Launched:
    """This process among those that were launched together.

    Attributes:
        rank: from 0 on; process 0 writes.
        size: how many there are.
        local_rank: from 0 on among those of this machine, which is also the number of its GPU.
        local_size: how many of them this machine has.
        restarts: how often the launcher has started them again.
        most_restarts: how often it would.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0
    most_restarts: int = 0


def launched(environment: Mapping[str, str] | None = None) -> Launched:
    """Returns what a launcher says of this process; one process by itself where it says nothing.

    Raises:
        ConfigError: the variables contradict each other.
    """
    given = os.environ if environment is None else environment
    if not all(name in given for name in NAMES):
        return Launched()
    rank, size = _whole(given, "RANK"), _whole(given, "WORLD_SIZE")
    local_rank = _whole(given, "LOCAL_RANK", rank)
    local_size = _whole(given, "LOCAL_WORLD_SIZE", max(1, local_rank + 1))
    if not (rank < size and local_rank < local_size <= size):
        raise ConfigError(
            f"RANK {rank} of WORLD_SIZE {size} and LOCAL_RANK {local_rank} of LOCAL_WORLD_SIZE "
            f"{local_size} were found in the environment, but each rank was expected to be below "
            "its size; start with torchrun, or unset RANK for one process."
        )
    return Launched(
        rank, size, local_rank, local_size,
        _whole(given, "TORCHELASTIC_RESTART_COUNT", 0),
        _whole(given, "TORCHELASTIC_MAX_RESTARTS", 0),
    )  # fmt: skip


def is_first() -> bool:
    """Returns whether this process is the one that prints for all."""
    try:
        return launched().rank == 0
    except ConfigError:
        return True


def _whole(given: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    text = given.get(name, "" if otherwise is None else str(otherwise))
    if not text.isdecimal():
        raise ConfigError(
            f"{name}={text} was found in the environment, but a whole number was expected; start "
            "with torchrun, or unset RANK for one process."
        )
    return int(text)
