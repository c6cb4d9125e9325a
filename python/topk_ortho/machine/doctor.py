"""What a run would meet on this machine: device, data, memory, disk. Looks, and changes nothing.

Opens the data and, for a language model, loads it; trains nothing. `announce` is the short form,
for the start of a run.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from topk_ortho.activations.kinds import Opened
from topk_ortho.activations.language_model import LanguageModelSource
from topk_ortho.activations.language_source import LanguageSource
from topk_ortho.activations.scaling import first_rows
from topk_ortho.config import TrainConfig
from topk_ortho.config.sources import SOURCES
from topk_ortho.machine import hardware
from topk_ortho.machine.forecast import Forecast, Place, forecast, readable
from topk_ortho.machine.memory import memory_available, memory_in_use, release_freed
from topk_ortho.metrics.loud_rows import TAKEN_OVER, LoudRows, loud_rows
from topk_ortho.terminal import aligned

LOADED = 210 * 10**6
"""What a process grows by when optimiser, matching and products are used for the first time."""
LOOKED_AT = 4096
"""Activations that are read to see how loud the loudest are."""
NAMED = 3  # components in the short form
CACHED_BLOCKS = 2**30  # what a language model's source keeps of its activations


def examine(config: TrainConfig, out: Path | None = None) -> tuple[str, bool]:
    """A report on a checked configuration, and whether the run should fit.

    Args:
        config: what would be trained.
        out: its run folder; `runs/` unless given.

    Raises:
        ConfigError: the device or the data cannot be used.
    """
    device = hardware.choose_device(config.device)
    data = _data(config, device)
    d_in, cached = data.source.d_in, cached_blocks(data.language)
    loud = loud_rows(first_rows(data.source, LOOKED_AT))
    threads = hardware.choose_threads(config, d_in)
    expected = forecast(
        config, d_in=d_in, device=device.type, cached=cached, loaded=still_to_load()
    )
    facts = hardware.describe(config, device, threads)
    versions = facts["versions"]
    on = facts["hardware"]
    lines = [
        f"topk-ortho {versions['topk-ortho']}, torch {versions['torch']}, "
        f"Python {versions['python']}",
        f"device: {on['device']}; {on['processor']}, {threads} of {on['cores']} threads, "
        f"OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY', 'not set')}",
        f"data: {config.activations}, d_in {d_in}; d_sae {config.sae.d_sae}, "
        f"batch {config.batch_size}, {config.steps} steps",
        f"rows: {loud}",
    ]
    fits = True
    for place, where in places(device):
        lines += ["", *_table(expected, place, where)]
        fits &= _fits(expected, place, where)
    disk, room = _disk(config, d_in, out or Path("runs"))
    lines += ["", f"disk: {readable(disk)} at most, {readable(room)} free"]
    problems = [*_problems(expected, device), *_full_disk(disk, room), *_taken_over(loud)]
    lines += [""] + [f"problem: {problem}" for problem in problems] if problems else []
    return "\n".join(lines), fits and disk <= room


def announce(config: TrainConfig, *, d_in: int, device: torch.device, cached: int) -> Forecast:
    """Warn of a run that will hardly fit; its forecast."""
    release_freed()  # what the data's preparation left is used again: it is not in use
    expected = forecast(
        config, d_in=d_in, device=device.type, cached=cached, loaded=still_to_load()
    )
    for problem in _problems(expected, device):
        warnings.warn(problem, stacklevel=2)
    return expected


def in_short(expected: Forecast, device: torch.device) -> str:
    """One line: the peak, when it comes, and the largest parts."""
    place, where = places(device)[0]
    parts = expected.at_peak(place)[:NAMED]
    named = ", ".join(f"{part.name} {readable(part.bytes)}" for part in parts)
    return (
        f"memory: {readable(memory_in_use(where)[0])} in use, {readable(expected.peak(place))} "
        f"more at the peak, in {expected.moment(place)}: {named}, ..."
    )


def still_to_load() -> int:
    """Bytes of code that the process has yet to load: the optimiser brings torch's compiler."""
    return 0 if "torch._dynamo" in sys.modules else LOADED


def cached_blocks(language: LanguageSource | None) -> int:
    """Bytes that the source of a language model's activations will keep of them at most."""
    if not isinstance(language, LanguageModelSource):
        return 0
    tokens = language.contexts("train").numel() + language.contexts("eval").numel()
    return min(CACHED_BLOCKS, 4 * language.d_in * tokens)


def places(device: torch.device) -> list[tuple[Place, torch.device]]:
    """Where memory is taken; on CPU there is only one such place."""
    host: tuple[Place, torch.device] = ("host", torch.device("cpu"))
    return [host] if device.type == "cpu" else [("device", device), host]


def _data(config: TrainConfig, device: torch.device) -> Opened:
    return SOURCES[config.activations].open(config, str(device))


def _table(expected: Forecast, place: Place, where: torch.device) -> list[str]:
    used = memory_in_use(where)[0]
    parts = [(part.name, part.bytes, part.setting) for part in expected.at_peak(place)]
    rows = [("in use already", used, ""), *parts, ("peak", used + expected.peak(place), "")]
    available = memory_available(where)
    if available is not None:
        rows.append(("available", used + available, ""))
    cells = [(name, readable(bytes_), setting) for name, bytes_, setting in rows]
    head = f"memory on {where.type}, at its peak, in {expected.moment(place)}"
    return [head, *aligned(cells, sides="<><", rule=False, indent=2)]


def _fits(expected: Forecast, place: Place, where: torch.device) -> bool:
    available = memory_available(where)
    return available is None or expected.peak(place) <= available


def _problems(expected: Forecast, device: torch.device) -> Iterator[str]:
    for place, where in places(device):
        if not _fits(expected, place, where):
            parts = [part for part in expected.at_peak(place) if part.setting]
            remedy = (
                f"lower {parts[0].setting} ({parts[0].name} takes {readable(parts[0].bytes)})"
                if parts
                else f"take data of fewer dimensions ({expected.moment(place)} takes most)"
            )
            yield (
                f"the run is expected to need {readable(expected.peak(place))} more memory on "
                f"{where.type}, but {readable(memory_available(where) or 0)} is available; "
                f"{remedy}."
            )


def _disk(config: TrainConfig, d_in: int, out: Path) -> tuple[int, int]:
    """Bytes that the checkpoints and the trained SAE take at most, and bytes free."""
    expected = forecast(config, d_in=d_in, device="cpu", cached=0)
    sizes = {part.name: part.bytes for part in expected.components}
    one = 3 * sizes["weights"] + sizes["running figures"] + sizes.get("history as bytes", 0)
    there = out.absolute()
    while not there.exists():
        there = there.parent
    arms = 2 if config.with_baseline else 1
    total = arms * ((config.keep_checkpoints + 1) * one + sizes["weights"])
    return total, shutil.disk_usage(there).free


def _taken_over(loud: LoudRows) -> Iterator[str]:
    if loud.variance_share > TAKEN_OVER:
        yield f"{loud}; take another hook point, or leave out such rows."


def _full_disk(needed: int, free: int) -> Iterator[str]:
    if needed > free:
        yield (
            f"checkpoints and weights take {readable(needed)} of disk, but {readable(free)} is "
            "free; lower --keep-checkpoints or --sae.d-sae, or take another --out."
        )
