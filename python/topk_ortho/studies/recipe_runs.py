"""Every run of the source experiment, one after the other, each in its own process.

So each has its own peak of memory; what a recipe takes beyond `baseline` is compared with the
budget of its selection. Finished recipes are not run again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topk_ortho.checkpoint.atomic import replace_file
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.toml import config_hash, config_text, read_stored_config
from topk_ortho.machine.interrupt import Interrupted, number_of
from topk_ortho.report.table import comparison_table
from topk_ortho.studies.recipes import RECIPES

COLUMNS = (
    "steps",
    "explained_variance",
    "l0",
    "dead_features",
    "absorption_rate",
    "excess",
    "mcc",
    "step_ms",
    "selection_budget",
    "selection_blocks",
    "selection_largest_block",
    "extra_mb",
)

STOPPED = "stopped; finished recipes are kept, and the same command resumes the one that was begun."


def run_recipes(settings: Mapping[str, TrainConfig], out: Path) -> int:
    """Train what is missing, print the table; 1 where a recipe failed or executed no step.

    Args:
        settings: of each recipe, by its name.
        out: a run folder per recipe, and `peaks.json`.

    Raises:
        ConfigError: a folder in it holds another run.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in RECIPES:
        _check(out / name, settings[name])
    failed = [name for name in RECIPES if not _finished(name, settings[name], out)]
    peaks = _peaks(out)
    rows = []
    for name in RECIPES:
        result = out / name / "result.json"
        if name not in failed and result.exists():
            figures: dict[str, Any] = json.loads(result.read_text())
            if {name, "baseline"} <= peaks.keys():
                figures["extra_mb"] = (peaks[name] - peaks["baseline"]) / 1e6
            rows.append((name, figures))
    if rows:
        print(comparison_table(rows, COLUMNS))
    for name in failed:
        print(f"{name} failed; its folder is {out / name}, and its output is above.")
    return 1 if failed else 0


def _check(folder: Path, asked: TrainConfig) -> None:
    path = folder / "config.toml"
    if path.exists() and config_hash(asked) != config_hash(read_stored_config(path)):
        raise ConfigError(
            f"--out {folder.parent} was given, but {folder} holds a run with other settings; take "
            "another folder, or the settings it was begun with."
        )


def _finished(name: str, settings: TrainConfig, out: Path) -> bool:
    """Run a recipe to its end, unless that was done; returns whether it got there."""
    folder, config = out / name, out / f"{name}.toml"
    if (folder / "result.json").exists():
        return True
    command = [sys.executable, "-m", "topk_ortho.train"]
    begun = (folder / "config.toml").exists()
    if begun:
        command += ["--resume", str(folder)]
    else:
        replace_file(config, config_text(settings).encode())
        command += ["--config", str(config), "--out", str(folder)]
    print(f"{name}: {' '.join(command[1:])}", file=sys.stderr, flush=True)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except KeyboardInterrupt:
        process.terminate()  # with a checkpoint; only Ctrl-C has reached it already
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode == 0:
        kibibytes = 1 if sys.platform == "darwin" else 1024
        peaks = _peaks(out) | {name: usage.ru_maxrss * kibibytes}
        replace_file(out / "peaks.json", (json.dumps(peaks, indent=2) + "\n").encode())
    elif (number := number_of(process.returncode)) is not None:
        raise Interrupted(STOPPED, number=number)
    return process.returncode == 0 and (folder / "result.json").exists()


def _peaks(out: Path) -> dict[str, int]:
    """Returns the peak resident set of each recipe's process, bytes."""
    path = out / "peaks.json"
    return json.loads(path.read_text()) if path.exists() else {}
