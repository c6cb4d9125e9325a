"""A comparison of a stored run's data with the files that a configuration names now.

Runs are named without the folders of their data, so that they survive a move; what lies under the
same names elsewhere may be something else.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from topk_ortho.activations.fingerprint import fingerprint
from topk_ortho.config import TrainConfig
from topk_ortho.config.toml import read_stored_config


def other_data(folder: Path, config: TrainConfig) -> str | None:
    """Returns what differs from the data that the run in `folder` was trained on, else None.

    Files that are gone say nothing, nor does a run whose manifest has none.
    """
    if config.activations == "synthetic":
        return None
    then = read_stored_config(folder / "config.toml")
    if then.model != config.model and not (_local(then.model) or _local(config.model)):
        return f"the model {config.model} (it was {then.model})"
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    stored, now = _by_name(manifest.get("data") or {}), _by_name(_now(config))
    return next((name for name, mark in now.items() if stored.get(name, mark) != mark), None)


def _local(model: str) -> bool:
    return Path(model).expanduser().is_dir()


def _by_name(files: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
    return {Path(path).name: mark["sha256"] for path, mark in files.items() if mark is not None}


def _now(config: TrainConfig) -> dict[str, dict[str, Any] | None]:
    plain = TrainConfig()
    return _cached(
        replace(plain, activations=config.activations, model=config.model, text=config.text,
                data=config.data)
    )  # fmt: skip


@lru_cache(maxsize=8)
def _cached(config: TrainConfig) -> dict[str, dict[str, Any] | None]:
    return fingerprint(config)
