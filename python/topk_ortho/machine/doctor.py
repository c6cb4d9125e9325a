"""A check of this machine before a run: device, data, memory, disk. Changes nothing.

Opens the data and, for a language model, loads it; trains nothing. `training/announce.py` is the
short form, for the start of a run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from topk_ortho.activations.kinds import Opened
from topk_ortho.activations.language_source import in_words
from topk_ortho.activations.scaling import first_rows
from topk_ortho.config import TrainConfig
from topk_ortho.config.sources import SOURCES
from topk_ortho.machine import hardware, memory
from topk_ortho.machine.forecast import Forecast, Place, readable
from topk_ortho.metrics.loud_rows import TAKEN_OVER, LoudRows, loud_rows
from topk_ortho.terminal import aligned
from topk_ortho.training.announce import (
    cached_blocks,
    fits,
    model_sizes,
    places,
    problems,
    slow_paths,
    still_to_load,
)
from topk_ortho.training.memory import forecast

LOOKED_AT = 4096
"""Activations that are read to find the share of the loudest."""


def examine(config: TrainConfig, out: Path | None = None) -> tuple[str, bool]:
    """Returns a report on a checked configuration, and whether the run should fit.

    Args:
        config: what would be trained.
        out: its run folder; `runs/` unless given.

    Raises:
        ConfigError: the device or the data cannot be used.
    """
    device = hardware.choose_device(config.device)
    data = _data(config, device)
    d_in = data.source.d_in
    loud = loud_rows(first_rows(data.source, LOOKED_AT))
    threads = hardware.choose_threads(config, d_in)
    expected = forecast(
        config,
        d_in=d_in,
        device=device.type,
        cached=cached_blocks(data.language),
        loaded=still_to_load(),
        model=model_sizes(data.language, device),
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
        *([in_words(data.language.loaded)] if data.language is not None else []),
    ]
    enough = True
    for place, where in places(device):
        lines += ["", *_table(expected, place, where)]
        enough &= fits(expected, place, where)
    disk, free = _disk(config, d_in, out or Path("runs"))
    lines += ["", f"disk: {readable(disk)} at most, {readable(free)} free"]
    found = [
        *problems(expected, device),
        *slow_paths(config, device),
        *_full_disk(disk, free),
        *_taken_over(loud),
    ]
    lines += [""] + [f"problem: {problem}" for problem in found] if found else []
    return "\n".join(lines), enough and disk <= free


def _data(config: TrainConfig, device: torch.device) -> Opened:
    return SOURCES[config.activations].open(config, str(device))


def _table(expected: Forecast, place: Place, where: torch.device) -> list[str]:
    used = memory.memory_in_use(where)[0]
    parts = [(part.name, part.bytes, part.setting) for part in expected.at_peak(place)]
    rows = [("in use already", used, ""), *parts, ("peak", used + expected.peak(place), "")]
    available = memory.memory_available(where)
    if available is not None:
        rows.append(("available", used + available, ""))
    cells = [(name, readable(bytes_), setting) for name, bytes_, setting in rows]
    head = f"memory on {where.type}, at its peak, in {expected.moment(place)}"
    return [head, *aligned(cells, sides="<><", rule=False, indent=2)]


def _disk(config: TrainConfig, d_in: int, out: Path) -> tuple[int, int]:
    """Returns the most bytes that checkpoints and trained SAE take, and the bytes free."""
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
        yield f"{loud}; take another hook point, or leave out such rows (--max-norm 10)."


def _full_disk(needed: int, free: int) -> Iterator[str]:
    if needed > free:
        yield (
            f"checkpoints and weights take {readable(needed)} of disk, but {readable(free)} is "
            "free; lower --keep-checkpoints or --sae.d-sae, or take another --out."
        )
