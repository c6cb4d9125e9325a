"""Layouts of trained SAEs: which one a folder has, and reading and writing any of them.

| layout | recognised by | read and written by |
|---|---|---|
| `saelens` | `sae_weights.safetensors` | `SAE.load_from_disk` |
| `sparsify` | `sae.safetensors` | `SparseCoder.load_from_disk` |
| `dictionary-learning` | `ae.pt` | `load_dictionary` |

A run folder of this package stands for its `sae/`, which is `saelens`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, get_args

from topk_ortho.checkpoint import atomic
from topk_ortho.config import ConfigError
from topk_ortho.formats import dictionary_learning, saelens, sparsify
from topk_ortho.formats.stored import StoredSAE

Layout = Literal["saelens", "sparsify", "dictionary-learning"]

FILES: dict[Layout, tuple[str, str]] = {
    "saelens": (saelens.CONFIG, saelens.WEIGHTS),
    "sparsify": (sparsify.CONFIG, sparsify.WEIGHTS),
    "dictionary-learning": (dictionary_learning.CONFIG, dictionary_learning.WEIGHTS),
}
"""Configuration and weights of each."""

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
    there = [layout for layout, (_, weights) in FILES.items() if (found / weights).is_file()]
    if len(there) != 1:
        names = ", ".join(f"{weights} ({layout})" for layout, (_, weights) in FILES.items())
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
        layout: unless given, the one that the SAE was read from.

    Raises:
        ConfigError: a layout that has no such SAE, or a folder that holds anything else.
    """
    chosen = layout or sae.layout
    writers = {
        "saelens": saelens.write_stored,
        "sparsify": sparsify.write,
        "dictionary-learning": dictionary_learning.write,
    }
    if chosen not in writers:
        raise ConfigError(
            f"the layout {chosen} was given, but one of {', '.join(get_args(Layout))} was expected."
        )
    if sae.transcoder and chosen != "saelens":
        raise ConfigError(
            f"the layout {chosen} was given, but the SAE is a transcoder, which of these only "
            "saelens has; give saelens."
        )
    return writers[chosen](sae, Path(folder))


def digest(folder: str | Path) -> str:
    """Returns the sha256 over both files, which identifies an SAE wherever it is."""
    layout, path = detect(folder)
    whole = hashlib.sha256(layout.encode())
    for name in FILES[layout]:
        try:
            with open(path / name, "rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ConfigError(f"{path / name} cannot be read ({error.strerror}).") from None
    return whole.hexdigest()
