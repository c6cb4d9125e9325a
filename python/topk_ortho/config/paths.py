"""Paths in configurations: absolute where a run stores them, resolved where an older one did not.

A run folder has to work from anywhere, so it stores absolute paths. Runs of
earlier versions stored paths as they were given; these are looked for where the present command
runs, and then in the folders above the run, one of which it was started in by default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.rules import check
from topk_ortho.config.toml import read_stored_config


def absolute(config: TrainConfig) -> TrainConfig:
    """Returns the configuration with absolute paths; a model that is no folder or file of its own
    is a name."""
    return _each_path(config, lambda path, _: path.expanduser().absolute())


def stored_config(folder: Path) -> TrainConfig:
    """Returns the configuration of the run in `folder`, checked, with absolute paths.

    Raises:
        ConfigError: no configuration, or data by a relative path that is nowhere to be found.
    """
    file = folder / "config.toml"

    def whole(path: Path, option: str) -> Path:
        found = find(path, folder)
        if not found.is_absolute() and option in ("data", "text"):
            raise ConfigError(
                f"{file} has {option} = {path}, which is relative to where the run was started, "
                f"but it is neither in {Path.cwd()} nor in a folder above the run; give the same "
                "command from where the run was started, or write the whole path into that file."
            )
        return found

    return _each_path(check(read_stored_config(file)), whole)


def find(path: Path, folder: Path) -> Path:
    """Returns the absolute path of what the run in `folder` names; a relative one not found is
    returned unchanged."""
    for start in (Path.cwd(), *folder.absolute().parents):
        if (start / path.expanduser()).exists():
            return start / path.expanduser()
    return path


def _each_path(config: TrainConfig, change: Callable[[Path, str], Path]) -> TrainConfig:
    model = change(Path(config.model), "model") if config.model else None
    return replace(
        config,
        data=None if config.data is None else change(config.data, "data"),
        text=tuple(change(path, "text") for path in config.text),
        init_from=None if config.init_from is None else change(config.init_from, "init-from"),
        model=str(model) if model is not None and _holds_a_model(model) else config.model,
    )


def _holds_a_model(path: Path) -> bool:
    return path.is_dir() or (path.suffix == ".gguf" and path.is_file())
