"""Layouts of trained SAEs: which one a folder has, and reading and writing any of them.

| layout | recognised by | read and written by |
|---|---|---|
| `saelens` | `sae_weights.safetensors` | `SAE.load_from_disk` |
| `sparsify` | `sae.safetensors` | `SparseCoder.load_from_disk` |
| `dictionary-learning` | `ae.pt` | `load_dictionary` |
| `gemma-scope` | `params.npz` | read only; written as `saelens` |
| `gemma-scope-2` | `params.safetensors` | read only; written as `saelens` |

A run folder of this package stands for its `sae/`, which is `saelens`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from topk_ortho.checkpoint import atomic
from topk_ortho.config import ConfigError
from topk_ortho.formats import dictionary_learning, gemma_scope, saelens, sparsify
from topk_ortho.formats.stored import StoredSAE

Layout = Literal["saelens", "sparsify", "dictionary-learning", "gemma-scope", "gemma-scope-2"]

FILES: dict[Layout, tuple[str, str]] = {
    "saelens": (saelens.CONFIG, saelens.WEIGHTS),
    "sparsify": (sparsify.CONFIG, sparsify.WEIGHTS),
    "dictionary-learning": (dictionary_learning.CONFIG, dictionary_learning.WEIGHTS),
}
"""Configuration and weights of each that is read and written."""
READ_ONLY: dict[Layout, tuple[str, ...]] = {
    "gemma-scope": (gemma_scope.FILE,),
    "gemma-scope-2": (gemma_scope.CONFIG, gemma_scope.FILE_2),
}
"""Files of each that is only read, the weights last."""

_UNFIT = (AttributeError, LookupError, RecursionError, RuntimeError, TypeError, ValueError)
"""Errors that the readers raise on values of other types and tensors of other shapes."""


def detect(folder: str | Path) -> tuple[Layout, Path]:
    """Returns the layout of a folder, and where its files are: there, or in a run's `sae/`.

    Raises:
        ConfigError: no SAE there, or several.
    """
    path = Path(folder)
    inside = atomic.existing(path / "sae")
    found = atomic.existing(inside if inside.is_dir() else path)
    if not found.is_dir():
        raise ConfigError(
            f"{folder} was given, but there is no such folder; check the path to the trained SAE."
        )
    known = {**FILES, **READ_ONLY}
    there = [layout for layout, files in known.items() if (found / files[-1]).is_file()]
    if len(there) != 1:
        names = ", ".join(f"{files[-1]} ({layout})" for layout, files in known.items())
        raise ConfigError(
            f"{folder} was given, but {'no' if not there else 'more than one'} trained SAE is in "
            f"it; a run folder, or one of {names} was expected; check the path."
        )
    return there[0], found


def read(folder: str | Path, *, allow_pickle: bool = False) -> StoredSAE:
    """Returns the SAE in a folder, whatever its layout.

    Args:
        folder: an SAE's folder, or a run folder.
        allow_pickle: whether the `ae.pt` of dictionary_learning may be unpickled, tensors only.

    Raises:
        ConfigError: no SAE there, damaged, or one that computes something this package does not.
    """
    layout, path = detect(folder)
    try:
        if layout == "saelens":
            return saelens.read_stored(path)
        if layout == "sparsify":
            return sparsify.read(path)
        if layout == "gemma-scope":
            return gemma_scope.read(path)
        if layout == "gemma-scope-2":
            return gemma_scope.read_2(path)
        return dictionary_learning.read(path, allow_pickle=allow_pickle)
    except ConfigError:
        raise
    except _UNFIT as error:
        raise ConfigError(
            f"{folder} was given, but its files do not fit together as an SAE of {layout} "
            f"({type(error).__name__}: {error}); save it again with its own package."
        ) from error


def write(sae: StoredSAE, folder: str | Path, *, layout: Layout | None = None) -> Path:
    """Write an SAE in one step; an earlier one of the same layout in the folder is replaced.

    Args:
        sae: in the units of its model.
        folder: becomes a folder of exactly the layout's two files.
        layout: unless given, the one that the SAE was read from, or `saelens` where that one is
            only read.

    Raises:
        ConfigError: a layout that has no such SAE, or a folder that holds anything else.
    """
    chosen = layout or ("saelens" if sae.layout in READ_ONLY else sae.layout)
    writers = {
        "saelens": saelens.write_stored,
        "sparsify": sparsify.write,
        "dictionary-learning": dictionary_learning.write,
    }
    if chosen not in writers:
        raise ConfigError(
            f"the layout {chosen} was given, but one of {', '.join(writers)} was expected."
        )
    if sae.transcoder and chosen != "saelens":
        raise ConfigError(
            f"the layout {chosen} was given, but the SAE is a transcoder, which of these only "
            "saelens has; give saelens."
        )
    return writers[chosen](sae, Path(folder))


def digest(folder: str | Path) -> str:
    """Returns the sha256 over its files, which identifies an SAE wherever it is."""
    layout, path = detect(folder)
    whole = hashlib.sha256(layout.encode())
    for name in {**FILES, **READ_ONLY}[layout]:
        try:
            with open(path / name, "rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ConfigError(f"{path / name} cannot be read ({error.strerror}).") from None
    return whole.hexdigest()
