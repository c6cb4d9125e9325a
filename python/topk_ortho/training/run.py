"""The function `train`: a configuration becomes a run folder, with or without a baseline."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from topk_ortho.activations import Activations, prepare
from topk_ortho.activations.fingerprint import fingerprint
from topk_ortho.activations.language_source import in_words
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.errors import in_python
from topk_ortho.config.paths import absolute
from topk_ortho.config.rules import check
from topk_ortho.config.toml import config_hash
from topk_ortho.config.train import check_threads
from topk_ortho.distributed.first import by_first
from topk_ortho.distributed.world import ALONE, TIMEOUT, World, joined
from topk_ortho.machine import hardware
from topk_ortho.machine.forecast import Forecast
from topk_ortho.machine.interrupt import Interrupted, SignalWatch, kept
from topk_ortho.machine.phases import shown
from topk_ortho.training import loggers
from topk_ortho.training.announce import announce, in_one_line, in_short
from topk_ortho.training.folder import RunFolder, new_run_path, refuse_existing
from topk_ortho.training.loggers import check_loggers
from topk_ortho.training.loop import Loop
from topk_ortho.training.state import TrainState
from topk_ortho.training.together import check_divisible, restarted
from topk_ortho.training.warm_start import fine_tuning

NOTHING = "stopped before there was a run folder, so nothing is kept; give the same command again."


@dataclass(frozen=True)
class Progressing:
    """The way a run proceeds, whatever it trains: the arguments of `train` by these names."""

    stop_after: int | None
    profile: int
    progress: bool
    world: World = ALONE


def train(
    config: TrainConfig,
    out: str | Path | None = None,
    *,
    data: Activations | None = None,
    stop_after: int | None = None,
    profile: int = 0,
    progress: bool = True,
    timeout: float = TIMEOUT,
) -> dict[str, Any]:
    """Train one run to the end.

    Args:
        config: what to train.
        out: a folder that does not exist yet; a new one under `runs/` unless given.
        data: what `prepare` made of the same data settings and seed, to share between arms.
        stop_after: stop so many steps later as Ctrl-C would.
        profile: watch so many steps, print where their time went, and write a trace.
        progress: show a progress bar and the memory that the run is expected to need.
        timeout: seconds that each of several processes waits for the others.

    Returns:
        The metrics of `result.json`, and `folder`; the same in every process.

    Raises:
        ConfigError: a setting, file or model that cannot be used.
        Interrupted: stopped before the end, with a checkpoint.
        NotFiniteError: a number that is not finite; the batch is in `bad_batch.safetensors`.
        OSError: the disk is full or failed; the last checkpoint is unchanged.
        PeerError: another process ended or did not answer, with a checkpoint.
    """
    with SignalWatch(at_once=True), kept(NOTHING), joined(timeout) as world:
        shows = progress and world.first
        with shown(shows):
            config = absolute(_checked(config))
            check_threads(config.threads)
            check_loggers(config.log_to)
            check_divisible(config, world, profile=profile)
            device = place(hardware.choose_device(config.device), world)
            path = None if out is None else Path(out)
            again = restarted(path, config, world)
            if path is not None and not again:
                by_first(world, "a look at --out", lambda: refuse_existing(path))
            data = data or prepare(config, device=str(device))
            folder = RunFolder(path) if again and path else _created(path, config, world)
            how = Progressing(stop_after, profile, shows, world)
            return _both_arms(folder, config, data, device, how)


def place(device: torch.device, world: World) -> torch.device:
    """Returns where a process works: each of several on a GPU of its own.

    Raises:
        ConfigError: this machine has fewer GPUs than processes.
    """
    if not world.shared or device.type != "cuda":
        return device
    local, gpus = world.place.local_rank, torch.cuda.device_count()
    if local >= gpus:
        raise ConfigError(
            f"process {local} of this machine would take cuda:{local}, but it has {gpus} GPUs; "
            "start as many processes as it has: torchrun --nproc-per-node gpu."
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _created(path: Path | None, config: TrainConfig, world: World) -> RunFolder:
    """Returns a new run folder, which process 0 makes."""

    def create() -> str:
        return str(RunFolder.create(path or new_run_path(config), config).path)

    return RunFolder(Path(by_first(world, "the run folder", create)))


def _checked(config: TrainConfig) -> TrainConfig:
    if not isinstance(config, TrainConfig):
        raise ConfigError(
            f"a configuration of type {type(config).__name__} was given, but TrainConfig(...) was "
            "expected; make one, such as TrainConfig(steps=400)."
        )
    # a digest means that the SAE has been looked up before, and k settled
    given = {"sae.k"} if config.init_sha256 else set()
    with in_python():
        return check(fine_tuning(config, given=given))


def resume(
    folder: str | Path,
    *,
    data: Activations | None = None,
    stop_after: int | None = None,
    profile: int = 0,
    progress: bool = True,
    timeout: float = TIMEOUT,
) -> dict[str, Any]:
    """Resumes a run from its newest valid checkpoint, or from step 0 when there is none yet.

    The arguments are those of `train`.
    """
    stopped = kept(_as_it_was(RunFolder(Path(folder))))
    with SignalWatch(at_once=True), stopped, joined(timeout) as world:
        shows = progress and world.first
        with shown(shows):
            run, config = RunFolder.open(Path(folder))
            check_loggers(config.log_to)
            check_divisible(config, world, profile=profile)
            device = place(hardware.choose_device(config.device), world)
            data = data or prepare(config, device=str(device))
            how = Progressing(stop_after, profile, shows, world)
            return _both_arms(run, config, data, device, how)


def _as_it_was(folder: RunFolder) -> str:
    return f"stopped; what was finished is kept; resume with: {folder.resume_command}"


def _both_arms(
    folder: RunFolder,
    config: TrainConfig,
    data: Activations,
    device: torch.device,
    how: Progressing,
) -> dict[str, Any]:
    world = how.world

    def arm(where: RunFolder, what: TrainConfig, left: int | None) -> tuple[dict[str, Any], int]:
        finished = by_first(world, "a look at the run folder", where.result)
        if finished is not None:
            return finished, 0
        with where.claimed() if world.first else nullcontext():
            return _arm(where, what, data, device, replace(how, stop_after=left), run=folder)

    if how.progress:
        said = in_one_line(config, d_in=data.source.d_in, device=device, folder=folder.path)
        print(said, file=sys.stderr, flush=True)
    with kept(_as_it_was(folder)):
        result, done = arm(folder, config, how.stop_after)
        if config.with_baseline:
            left = None if how.stop_after is None else how.stop_after - done
            if left == 0:
                raise Interrupted()
            plain = config.without_constraint()
            beside = RunFolder(folder.baseline)
            by_first(world, "the baseline's folder", lambda: _make(beside, plain))
            baseline, _ = arm(beside, plain, left)
            if world.first:
                folder.write_json("comparison.json", compare(result, baseline))
            result = result | {"baseline": baseline}
        return result | {"folder": str(folder.path)}


def _make(folder: RunFolder, config: TrainConfig) -> None:
    if not folder.path.exists():
        RunFolder.create(folder.path, config)


def _arm(
    folder: RunFolder,
    config: TrainConfig,
    data: Activations,
    device: torch.device,
    how: Progressing,
    *,
    run: RunFolder,
) -> tuple[dict[str, Any], int]:
    """Returns the metrics of one arm, and the steps that were executed for them now."""
    threads_before = torch.get_num_threads()
    threads = hardware.choose_threads(config, data.source.d_in)
    if how.world.shared and not config.threads:
        threads = max(1, min(threads, hardware.threads_allowed() // how.world.place.local_size))
    torch.set_num_threads(threads)

    def described() -> None:
        processes = how.world.size if how.world.shared else None
        expected = write_manifest(
            folder, config, data, device, threads=threads, processes=processes
        )
        if how.progress:
            say_how(data, expected, device)

    by_first(how.world, "manifest.json", described)
    state = TrainState.fresh(config, data, device, world=how.world)
    loop = Loop(folder, state, name=arm_name(config), shown=how.progress, run=run,
                profile=how.profile)  # fmt: skip
    try:
        loop.begin()
        first = state.step
        stop_at = None if how.stop_after is None else first + how.stop_after
        told_of = config if how.world.first else replace(config, log_to=())
        with loggers.opened(folder.metrics, told_of, name=loggable_name(folder, config),
                            step=first) as told:  # fmt: skip
            result = loop.run(stop_at=stop_at)
            told.end(state.step, result)
    finally:
        torch.set_num_threads(threads_before)
        state.close()
    return result, state.step - first


def loggable_name(folder: RunFolder, config: TrainConfig) -> str:
    """Returns the name of a run in the lists of other programs: arm, seed and folder."""
    return f"{arm_name(config)}, seed {config.seed}, {folder.path.resolve().name}"


def arm_name(config: TrainConfig) -> str:
    """Returns the name of an arm in the progress and in tables: its criterion, or `none`."""
    return config.pairs.criterion if config.constrained else "none"


def write_manifest(
    folder: RunFolder,
    config: TrainConfig,
    data: Activations,
    device: torch.device,
    *,
    threads: int,
    processes: int | None = None,
) -> Forecast:
    """Write `manifest.json`, and return the forecast of the run's memory, or of process 0.

    Raises:
        ConfigError: the folder was begun with another configuration.
    """
    folder.check_hash(config)
    expected = announce(
        config, d_in=data.source.d_in, d_out=data.d_out, device=device, language=data.language
    )
    described = hardware.describe(config, device, threads)
    described |= {} if processes is None else {"processes": processes}
    described |= {"config_hash": config_hash(config), "data": fingerprint(config)}
    described |= {"memory_forecast": expected.as_json()}
    described |= {"language_model": dict(data.language.loaded) if data.language else None}
    described |= {"loud_rows": None if data.loud is None else data.loud.as_json()}
    folder.write_json("manifest.json", described)
    return expected


def say_how(data: Activations, expected: Forecast, device: torch.device) -> None:
    """Print what runs the language model, if there is one, and the expected memory."""
    if data.language is not None and data.language.loaded:
        print(in_words(data.language.loaded), file=sys.stderr, flush=True)
    print(in_short(expected, device), file=sys.stderr, flush=True)


def compare(constrained: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """Returns both arms and, where both have a metric, constrained - baseline."""
    difference = {
        key: value - baseline[key]
        for key, value in constrained.items()
        if isinstance(value, (int, float)) and isinstance(baseline.get(key), (int, float))
    }
    for key in ("seed", "steps", "variance", "scale", "rows"):
        difference.pop(key, None)
    return {"constrained": constrained, "baseline": baseline, "difference": difference}
