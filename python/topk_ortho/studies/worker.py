"""One process of an ablation: runs come in as lines of JSON, their outcomes go out.

Started by `pool.py` as `python -m topk_ortho.studies.worker FOLDER`. It ends when its input does,
after the current step on a signal that asks to end, and with the process that started it. A run is
computed under a lock by whoever takes it first; a run folder that was left half done is resumed
from its newest checkpoint.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from topk_ortho.activations import Activations, prepare
from topk_ortho.activations.harvest import HarvestedSource, harvest_folder
from topk_ortho.activations.kept import KeptSource
from topk_ortho.activations.preparation import open_language_model
from topk_ortho.checkpoint.locks import locked
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.toml import config_hash, from_table, to_table
from topk_ortho.machine.hardware import choose_device, keep_freed_memory
from topk_ortho.machine.interrupt import Interrupted, SignalWatch
from topk_ortho.studies.outcome import failed_path
from topk_ortho.training import resume, train
from topk_ortho.training.folder import RunFolder

DATA = ("activations", "model", "text", "dataset", "hook", "hook_out", "context", "backend",
        "dtype", "attn", "model_device", "device_map", "tokens", "leave_out",
        "skip_positions", "chat_roles", "max_norm", "data", "synthetic", "plant",
        "seed", "device")  # fmt: skip
"""Settings that `prepare` uses; runs that agree in them share their data."""
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>


class Data:
    """Activations of the runs that this process trains; those of the last one are kept."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._last: tuple[dict[str, Any], Activations] | None = None
        self._language: dict[Path, HarvestedSource] = {}

    def of(self, config: TrainConfig) -> Activations:
        """Returns what `prepare` makes of a configuration."""
        table = to_table(config)
        key = {name: table.get(name) for name in DATA}
        if self._last is None or self._last[0] != key:
            self._last = None  # freed before the next is made
            device = str(choose_device(config.device))
            language = self._harvested(config, device)
            data = prepare(config, device=device, language=language)
            self._last = key, replace(data, source=KeptSource(data.source))
        return self._last[1]

    def _harvested(self, config: TrainConfig, device: str) -> HarvestedSource | None:
        if config.activations != "language-model":
            return None
        folder = harvest_folder(self._root / "activations", config)
        if folder not in self._language:
            self._language = {folder: HarvestedSource(
                folder, lambda: open_language_model(config, device=device, cache_bytes=0)
            )}  # fmt: skip
        return self._language[folder]


def compute(root: Path, config: TrainConfig, data: Data) -> str | None:
    """Train one run to its end unless it is there already; the reason where it fails.

    Raises:
        Interrupted: stopped with a checkpoint.
    """
    name = config_hash(config)
    folder, failed = root / "runs" / name, failed_path(root, name)
    with locked(root / ".locks" / name):
        if (folder / "result.json").exists():
            return None
        try:
            begun = folder.exists()
            if begun:
                resume(folder, data=data.of(config), progress=False)
            else:
                train(config, folder, data=data.of(config), progress=False)
        except Exception as error:  # whatever it is, the other arms continue
            reason = _reason(error)
            failed.parent.mkdir(parents=True, exist_ok=True)
            RunFolder(failed.parent).write_json(
                failed.name, {"reason": reason, "traceback": traceback.format_exc()}
            )
            return reason
        failed.unlink(missing_ok=True)
        return None


def _reason(error: Exception) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    plain = isinstance(error, ConfigError) or not str(error).strip()
    return said if plain else f"{type(error).__name__}: {said}"


def end_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM when the process that started this one is gone (Linux)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)


def main(arguments: list[str]) -> int:
    """Answer every line of the input with one line; returns the exit code."""
    root, parent = Path(arguments[0]), int(arguments[1])
    end_with_parent(parent)
    # Only answers go to this stream: whatever else is printed goes to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    keep_freed_memory()
    data = Data(root)
    try:
        with SignalWatch(at_once=True):
            for line in sys.stdin:
                reason = compute(root, from_table(json.loads(line)), data)
                answers.write(json.dumps({"failed": reason}) + "\n")
                answers.flush()
    except Interrupted as stopped:
        return stopped.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
