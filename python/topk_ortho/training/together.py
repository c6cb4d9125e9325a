"""What the processes of one run do together around its steps: refuse, write, restore, end.

Process 0 has the run folder: log, checkpoints and result. Every process has the whole state, so
where process 0 is gone, another writes the last checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as unpacked
from safetensors.torch import save as packed
from torch import Tensor

from topk_ortho.checkpoint import store
from topk_ortho.checkpoint.locks import Held, claimed
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.penalty import pair_weight
from topk_ortho.config.toml import config_hash
from topk_ortho.distributed.first import by_first
from topk_ortho.distributed.world import World
from topk_ortho.training.folder import RunFolder
from topk_ortho.training.state import TrainState


def check_divisible(config: TrainConfig, world: World, *, profile: int = 0) -> None:
    """Refuse what several processes cannot do together.

    Raises:
        ConfigError: it names the option.
    """
    if not world.shared:
        return
    many = f"{world.size} processes"
    if config.constrained and (weight := pair_weight(config.pairs, config.penalty)) != "one":
        raise ConfigError(
            f"--pairs.criterion {config.pairs.criterion} weighs pairs by activity ({weight}) and "
            f"was given with {many}, but such a weight is not divided; train in one process, or "
            "give --penalty.pair-weight one."
        )
    if config.prefetch == "on":
        raise ConfigError(
            f"--prefetch on was given with {many}, but they fill their buffers between steps, all "
            "at once; leave --prefetch out."
        )
    if profile:
        raise ConfigError(
            f"--profile was given with {many}; profile the run in one process by itself."
        )
    if config.batch_size < world.size:
        raise ConfigError(
            f"--batch-size {config.batch_size} was given with {many}, but at least one activation "
            "for each was expected; raise it."
        )


def restarted(out: Path | None, config: TrainConfig, world: World) -> bool:
    """Returns whether the launcher started the processes again, and `out` is their run.

    Raises:
        ConfigError: it may start them again, but no folder was given to resume.
    """
    if world.place.most_restarts and out is None:
        raise ConfigError(
            "torchrun --max-restarts was given without --out, but processes that are started again "
            "have to find their run; add --out DIR."
        )
    if not world.place.restarts or out is None or not (out / "config.toml").is_file():
        return False
    _, stored = RunFolder.open(out)
    return config_hash(stored) == config_hash(config)


def newest_checkpoint(folder: RunFolder, world: World) -> store.Checkpoint | None:
    """Returns the newest valid checkpoint, which process 0 reads for all; None without any."""
    if not world.shared:
        return store.newest(folder.checkpoints)
    found: list[store.Checkpoint] = []

    def read() -> dict[str, Any] | None:
        newest = store.newest(folder.checkpoints)
        if newest is None:
            return None
        found.append(newest)
        return {
            "step": newest.step,
            "state": newest.state,
            "bytes": [len(data) for data in _packed(newest)],
            "blobs": list(newest.blobs),
        }

    said = by_first(world, "the newest checkpoint", read)
    if said is None:
        return None
    if found:
        data = [torch.frombuffer(bytearray(d), dtype=torch.uint8) for d in _packed(found[0])]
    else:
        data = [torch.empty(n, dtype=torch.uint8) for n in said["bytes"]]
    for part in data:
        world.from_first(part, "the newest checkpoint")
    if found:
        return found[0]
    raw = [part.numpy().tobytes() for part in data]
    blobs = dict(zip(said["blobs"], raw[1:], strict=True))
    return store.Checkpoint(said["step"], unpacked(raw[0]), said["state"], blobs, folder.path)


def _packed(checkpoint: store.Checkpoint) -> list[bytes]:
    """Returns tensors and blobs as bytes."""
    return [packed(checkpoint.tensors), *checkpoint.blobs.values()]


def same_start(state: TrainState) -> None:
    """Refuse processes that prepared different data, or do not start from the same state.

    Raises:
        ConfigError: it names the ranks.
    """
    from topk_ortho.training.divided_step import checksums

    world, data = state.world, state.data
    if not world.shared:
        return
    units = torch.tensor([data.scale, data.variance], dtype=torch.float64)
    own = [state.step, *units.view(torch.int64).tolist(), *checksums(state)]
    every = world.numbers(own, "the other processes to start")
    if odd := [rank for rank, numbers in enumerate(every) if numbers != every[0]]:
        raise ConfigError(
            f"process {', '.join(map(str, odd))} of {world.size} starts from other data or weights "
            "than process 0, but all were expected to start alike; give them the same options, "
            "files and version."
        )


def write_alone(folder: RunFolder, run: RunFolder, state: TrainState, spent: dict[str, Any]) -> str:
    """Write the checkpoint of a process whose others are gone, unless another does.

    Args:
        folder: of the arm.
        run: the folder for `--resume`.
        state: between two steps.
        spent: the time so far, by the names of the checkpoint.

    Returns:
        What is kept, in words.
    """
    tensors = {k: v.detach() for k, v in state.tensors().items()}
    resumes = f"resume with: {run.resume_command}"
    if state.step == 0:
        return f"stopped before the first step; {resumes}"
    try:
        if state.world.first:  # it holds the folder already
            write(folder, state, tensors, spent)
        else:
            with claimed(folder.path / "config.toml"):
                if not (folder.checkpoints / f"step_{state.step}").exists():
                    write(folder, state, tensors, spent)
    except Held:
        return f"another process keeps step {state.step}; {resumes}"
    except (OSError, store.CheckpointError) as error:
        return f"no checkpoint could be written ({error}); {resumes}"
    return f"stopped after step {state.step} of {state.config.steps}, which is kept; {resumes}"


def write(
    folder: RunFolder, state: TrainState, tensors: dict[str, Tensor], spent: dict[str, Any]
) -> None:
    """Write the checkpoint of a state between two steps; `tensors` are its own."""
    history = state.history()
    store.save(
        folder.checkpoints,
        state.step,
        tensors=tensors,
        state=state.numbers() | spent,
        blobs={} if history is None else {"history.bin": history},
        keep=state.config.keep_checkpoints,
    )
