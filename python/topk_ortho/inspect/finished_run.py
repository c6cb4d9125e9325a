"""A finished run on disk: its folder, its configuration, its metrics."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topk_ortho.activations import Activations
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.paths import stored_config
from topk_ortho.training.folder import RunFolder

SAME_DATA = 1e-4
"""Scale and variance of the same data agree to this share on any machine."""


@dataclass(frozen=True)
class FinishedRun:
    """One arm that was trained to its end.

    Attributes:
        folder: its run folder.
        config: its `config.toml`, checked.
        result: its `result.json`.
        manifest: its `manifest.json`.
    """

    folder: RunFolder
    config: TrainConfig
    result: dict[str, Any]
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> FinishedRun:
        """Read a run folder.

        Raises:
            ConfigError: no run folder, a damaged one, one that is not finished, or one whose
                `config.toml` was changed since it began.
        """
        if not (path / "config.toml").is_file():
            raise ConfigError(
                f"{path} was given, but a run folder with a config.toml was expected; "
                "check the path."
            )
        folder, config = RunFolder(path), stored_config(path)
        if not (path / "result.json").is_file():
            raise ConfigError(
                f"{path} was given, but it has no result.json, and a finished run was expected; "
                f"finish it with topk-ortho train --resume {path}."
            )
        result, manifest = (_read(path / name) for name in ("result.json", "manifest.json"))
        folder.check_hash(config)
        return cls(folder, config, result, manifest)

    def data_differs(self, data: Activations) -> str | None:
        """Returns how `data` differs from the run's training data, as far as its scale and variance
        show; None where they agree."""
        for name, now in (("variance", data.variance), ("scale", data.scale)):
            then = self.result.get(name)
            if then is not None and not math.isclose(then, now, rel_tol=SAME_DATA):
                return f"its {name} was {then:.6g} and is {now:.6g} now"
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}), but the JSON of a finished run was expected; "
            "train the run again."
        ) from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds no JSON object; train the run again.")
    return value
