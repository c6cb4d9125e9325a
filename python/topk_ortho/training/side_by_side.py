"""Several runs side by side on the same activations: other hook points, seeds, SAEs, constraints.

Every run has a folder of its own and the figures that it would have alone, bit for bit on CPU. The
language model runs once for all of them, and runs that read the same hook point share their
batches. Whichever run is behind takes its step first, so runs whose checkpoints are of different
steps meet again.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from topk_ortho.activations import Activations, prepare
from topk_ortho.activations.language_model import LanguageModelSource
from topk_ortho.activations.preparation import open_hooks
from topk_ortho.activations.shared_batches import SharedBatches
from topk_ortho.activations.source import innermost
from topk_ortho.checkpoint import atomic
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.paths import absolute
from topk_ortho.config.rules import check
from topk_ortho.config.toml import to_table
from topk_ortho.config.train import check_threads
from topk_ortho.machine import hardware
from topk_ortho.machine.forecast import Place, readable
from topk_ortho.machine.interrupt import Interrupted, SignalWatch, kept
from topk_ortho.machine.phases import shown
from topk_ortho.training.finite import NotFiniteError
from topk_ortho.training.folder import RunFolder, new_folder, refuse_existing
from topk_ortho.training.loggers import Told, check_loggers, opened
from topk_ortho.training.loop import Loop
from topk_ortho.training.run import NOTHING, loggable_name, write_manifest
from topk_ortho.training.state import TrainState, shuffled
from topk_ortho.training.warm_start import fine_tuning

RUNS = "runs.json"
"""File of a folder of runs side by side: their names, in order."""
OWN = ("seed", "hook", "plant", "sae", "pairs", "penalty", "history", "lr", "warmup_steps",
       "decay_fraction", "beta1", "beta2", "grad_clip", "init_from", "init_sha256",
       "allow_pickle")  # fmt: skip
"""Settings that runs side by side may differ in."""


def train_side_by_side(
    configs: Mapping[str, TrainConfig],
    out: str | Path,
    *,
    stop_after: int | None = None,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Train several runs to the end.

    Args:
        configs: what to train, by the name of its folder below `out`. Those of different seeds
            read the activations in the order of the first, their `data_seed`.
        out: a folder that does not exist yet.
        stop_after: stop so many steps later as Ctrl-C would.
        progress: show a progress bar and the memory that the runs are expected to need.

    Returns:
        The metrics of `result.json` by name, each with its `folder`.

    Raises:
        ConfigError: a setting, file or model that cannot be used, or runs that cannot share data.
        Interrupted: stopped before the end, with checkpoints.
        NotFiniteError: a number of one run that is not finite; the others were trained to the end.
    """
    with SignalWatch(at_once=True), kept(NOTHING), shown(progress):
        checked = {name: _checked(config) for name, config in configs.items()}
        checked = _of_one_order(checked)
        _check_shared(checked)
        refuse_existing(Path(out))
        device = hardware.choose_device(next(iter(checked.values())).device)
        data = _prepared(checked, str(device))
        folder = _create(Path(out), checked)
        return _train(folder, checked, data, device, stop_after=stop_after, progress=progress)


def resume_side_by_side(
    folder: str | Path, *, stop_after: int | None = None, progress: bool = True
) -> dict[str, dict[str, Any]]:
    """Resume the runs of a folder; the arguments are those of `train_side_by_side`."""
    root = Path(folder)
    with SignalWatch(at_once=True), kept(_again(root)), shown(progress):
        configs = {name: RunFolder.open(root / name)[1] for name in runs_of(root)}
        check_loggers(next(iter(configs.values())).log_to)
        device = hardware.choose_device(next(iter(configs.values())).device)
        data = _prepared(configs, str(device))
        return _train(root, configs, data, device, stop_after=stop_after, progress=progress)


def is_side_by_side(folder: Path) -> bool:
    """Returns whether a folder holds runs side by side."""
    return (folder / RUNS).is_file()


def runs_of(folder: Path) -> list[str]:
    """Returns the names of the runs in a folder.

    Raises:
        ConfigError: the file that lists them is damaged.
    """
    try:
        names = json.loads((folder / RUNS).read_text(encoding="utf-8"))["runs"]
        if names and all(isinstance(name, str) for name in names):
            return names
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ConfigError(
        f"{folder / RUNS} is damaged, but a list of runs was expected; resume each run by itself "
        "with --resume."
    )


def _checked(config: TrainConfig) -> TrainConfig:
    config = absolute(check(fine_tuning(config, given={"sae.k"} if config.init_sha256 else set())))
    check_threads(config.threads)
    check_loggers(config.log_to)
    if config.with_baseline:
        raise ConfigError(
            "--with-baseline was given with several runs, but it makes a run of its own; give "
            "--vary pairs.criterion=row-coactivation,none."
        )
    return config


def _of_one_order(configs: dict[str, TrainConfig]) -> dict[str, TrainConfig]:
    first = next(iter(configs.values()))
    if len({config.seed for config in configs.values()}) == 1 or first.data_seed is not None:
        return configs
    return {name: replace(config, data_seed=first.seed) for name, config in configs.items()}


def _check_shared(configs: Mapping[str, TrainConfig]) -> None:
    tables = [
        {key: value for key, value in to_table(config).items() if key not in OWN}
        for config in configs.values()
    ]
    keys = {key for table in tables for key in table}
    for key in sorted(keys):
        if any(table.get(key) != tables[0].get(key) for table in tables):
            raise ConfigError(
                f"runs that differ in --{key.replace('_', '-')} were given, but runs side by side "
                "share their data and their steps; train them one after another."
            )
    if next(iter(configs.values())).prefetch == "on":
        raise ConfigError(
            "--prefetch on was given with several runs, but they read their data in turn; leave "
            "it out."
        )


def _prepared(configs: Mapping[str, TrainConfig], device: str) -> dict[str, Activations]:
    """The data of every run; runs that read the same share it."""
    first = next(iter(configs.values()))
    hooks = list(dict.fromkeys(config.hook for config in configs.values()))
    sources = open_hooks(first, hooks, device=device) if first.hook else {}
    made: dict[str, Activations] = {}
    for config in configs.values():
        key = _data_key(config)
        if key not in made:
            made[key] = prepare(config, device=device, language=sources.get(config.hook))
    return {name: made[_data_key(config)] for name, config in configs.items()}


def _data_key(config: TrainConfig) -> str:
    """Equal for runs on equal data: a seed counts where known features are drawn by it."""
    known = config.plant.enabled or config.activations == "synthetic"
    plant = to_table(config)["plant"] if config.plant.enabled else None
    return json.dumps([config.hook, plant, config.seed if known else None])


def _create(path: Path, configs: Mapping[str, TrainConfig]) -> Path:
    """Make the folder with all run folders, as a whole or not at all."""
    with new_folder(path) as made:
        for name, config in configs.items():
            RunFolder.create(made / name, config)
        listed = json.dumps({"runs": list(configs)}, indent=2) + "\n"
        atomic.write_file(made / RUNS, listed.encode())
    return path


class _Run:
    """One of the runs: its loop, the threads that it would have alone, and its loggers."""

    def __init__(self, loop: Loop, threads: int, told: Told) -> None:
        self.loop, self.threads, self.told = loop, threads, told

    @property
    def step(self) -> int:
        """Steps so far."""
        return self.loop.state.step

    def begin(self) -> None:
        """Take batches from where its steps are."""
        batches = self.loop.state.buffer
        assert isinstance(batches, SharedBatches)
        batches.begin(self.step)


def _train(
    root: Path,
    configs: Mapping[str, TrainConfig],
    data: Mapping[str, Activations],
    device: torch.device,
    *,
    stop_after: int | None,
    progress: bool,
) -> dict[str, dict[str, Any]]:
    threads_before = torch.get_num_threads()
    with ExitStack() as stack, kept(_again(root)):
        stack.callback(torch.set_num_threads, threads_before)
        for name in configs:
            stack.enter_context(RunFolder(root / name).claimed())
        runs = _begun(root, configs, data, device, stack, progress=progress)
        try:
            failed = _steps(list(runs.values()), stop_after=stop_after)
        except Interrupted as stop:
            step = min(run.step for run in runs.values())
            said = f"stopped after step {step}, which is kept; resume with: {_resume(root)}"
            raise Interrupted(said, number=stop.number) from None
        results = {}
        _make_room(data)
        for name in configs:
            run = runs.get(name)
            if run is not None and run not in failed:
                torch.set_num_threads(run.threads)
                run.told.end(run.step, run.loop.finish())
            if result := RunFolder(root / name).result():
                results[name] = result | {"folder": str(root / name)}
        if failed:
            raise next(iter(failed.values()))
        return results


def _begun(
    root: Path,
    configs: Mapping[str, TrainConfig],
    data: Mapping[str, Activations],
    device: torch.device,
    stack: ExitStack,
    *,
    progress: bool,
) -> dict[str, _Run]:
    """The runs that are not finished, at their newest checkpoints."""
    runs: dict[str, _Run] = {}
    batches: dict[int, SharedBatches] = {}
    expected = 0
    for name, config in configs.items():
        folder = RunFolder(root / name)
        if folder.result() is not None:
            continue
        given = data[name]
        buffer = SharedBatches(shuffled(config, given, device), batches.get(id(given)))
        batches.setdefault(id(given), buffer)
        threads = hardware.choose_threads(config, given.source.d_in)
        place: Place = "host" if device.type == "cpu" else "device"
        forecast = write_manifest(folder, config, given, device, threads=threads)
        expected += forecast.peak(place)
        state = TrainState.fresh(config, given, device, buffer=buffer)
        stack.callback(state.close)
        said = f"{len(configs)} runs, {name}"
        loop = Loop(folder, state, name=said, shown=progress and not runs, run=RunFolder(root))
        loop.begin()
        name_there = loggable_name(folder, config)
        told = opened(folder.metrics, config, name=name_there, step=loop.state.step)
        runs[name] = _Run(loop, threads, stack.enter_context(told))
    for run in sorted(runs.values(), key=lambda run: run.step):
        run.begin()
    if progress and runs:
        print(f"{len(runs)} runs side by side; memory: about {readable(expected)} more in all, "
              "with what they share counted for each",
              file=sys.stderr, flush=True)  # fmt: skip
    return runs


def _steps(runs: list[_Run], *, stop_after: int | None) -> dict[_Run, NotFiniteError]:
    """Take all steps in turn; returns the runs that failed.

    Raises:
        Interrupted: after every run has left a checkpoint.
    """
    failed: dict[_Run, NotFiniteError] = {}
    stopped: Interrupted | None = None
    first = min((run.step for run in runs), default=0)
    stop_at = None if stop_after is None else first + stop_after
    with SignalWatch() as watch, ExitStack() as stack:
        taking = {run: stack.enter_context(run.loop.steps(watch, stop_at=stop_at)) for run in runs}
        while taking:
            run = min(taking, key=lambda run: run.step)
            torch.set_num_threads(run.threads)
            try:
                next(taking[run])
                continue
            except StopIteration:
                pass
            except NotFiniteError as error:
                failed[run] = error
                print(f"{run.loop.folder.path}: {error}", file=sys.stderr, flush=True)
            except Interrupted as stop:
                stopped = stop
            del taking[run]
    if stopped is not None:
        raise stopped
    return failed


def _make_room(data: Mapping[str, Activations]) -> None:
    """Let language models' sources keep the blocks that are measured on: all runs measure there."""
    for source in {id(given.source): innermost(given.source) for given in data.values()}.values():
        if isinstance(source, LanguageModelSource):
            source.make_room()


def _resume(root: Path) -> str:
    return f"python -m topk_ortho.train --resume {shlex.quote(str(root))}"


def _again(root: Path) -> str:
    return f"stopped; what was finished is kept; resume with: {_resume(root)}"
