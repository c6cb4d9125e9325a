"""Folders of other packages' layouts: written whole or not at all, and never over other files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from topk_ortho.checkpoint import atomic
from topk_ortho.config import ConfigError


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write a folder of exactly these files; one with files of these names is replaced.

    Raises:
        ConfigError: the folder holds anything else, or the disk fails; it is unchanged then.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; expected a folder for the exported SAE")
    others = {p.name for p in folder.iterdir()} - set(files) if folder.exists() else set()
    if others:
        raise ConfigError(
            f"{folder} holds {min(others)!r}, and an export replaces the whole folder; give a new "
            "folder"
        )
    try:
        with atomic.writing(folder) as directory:
            for name, data in files.items():
                atomic.write_file(directory / name, data)
    except OSError as error:
        raise ConfigError(
            f"the SAE could not be written to {folder} ({error}); free disk space or check the "
            "permissions"
        ) from error
    return folder


def plain(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns a copy on CPU that shares no memory, as files require."""
    return tensor.detach().cpu().to(dtype).contiguous().clone()
