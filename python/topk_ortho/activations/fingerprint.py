"""Fingerprints of the files that a run reads, which show whether they are still the same.

Small files are hashed whole, large ones by their size and their two ends, so that a folder of
thousands of shards costs seconds. A model or dataset by name has no files here and is not covered.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from topk_ortho.config import TrainConfig
from topk_ortho.config.sources import SOURCES

WHOLE = 8 * 2**20
"""Bytes up to which a file is hashed whole."""
END = 2**20
"""Bytes hashed at either end of a larger one."""


def fingerprint(config: TrainConfig) -> dict[str, dict[str, Any] | None]:
    """Returns `bytes` and `sha256` of each file in the data of `config`, by its path as
    configured; None for a file that cannot be read, {} for synthetic data."""
    return {str(path): _of(path) for path in SOURCES[config.activations].files(config)}


def _of(path: Path) -> dict[str, Any] | None:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if size <= WHOLE:
                digest = hashlib.file_digest(file, "sha256")
            else:
                digest = hashlib.sha256(file.read(END))
                file.seek(size - END)
                digest.update(file.read(END))
    except OSError:
        return None
    return {"bytes": size, "sha256": digest.hexdigest(), "whole": size <= WHOLE}
