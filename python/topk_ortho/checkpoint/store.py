"""Checkpoints: a folder of `step_<N>/` directories, each complete and verified, or not there.

A checkpoint holds `tensors.safetensors`, `state.json`, any blobs, and `manifest.json` with the
size and sha256 of each, written last. A directory without a valid manifest is ignored. The
newest is found by listing; there is no pointer file that could point to nothing. Saving reads the
tensors back once to hash what reached the file system; loading hashes everything before anything
is used. One writer per folder is assumed. Refused: pickle, names that leave the directory, state
that JSON would change.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from topk_ortho.checkpoint import atomic
from topk_ortho.config import ConfigError
from topk_ortho.terminal import printable

log = logging.getLogger(__name__)

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
FORMAT, VERSION = "topk-ortho checkpoint", 1

_STEP = re.compile(r"step_(\d+)")
_DAMAGE = (
    OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError,
)  # fmt: skip
"""Errors that reading a damaged directory may raise; deeply nested JSON exhausts the stack."""
_BLOB = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class CheckpointError(ConfigError):
    """A checkpoint that cannot be written or must not be used."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read and verified.

    Attributes:
        step: the step it was saved at.
        tensors: on CPU, by name.
        state: the JSON state.
        blobs: bytes by name, such as a pair history.
        path: its directory.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    blobs: dict[str, bytes]
    path: Path


def save(
    folder: Path,
    step: int,
    *,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    blobs: Mapping[str, bytes] | None = None,
    keep: int = 2,
) -> Path:
    """Write `folder/step_<step>/`, then delete older checkpoints beyond the newest `keep`.

    Killed at any moment, the folder holds what it held before or the new checkpoint in addition.
    A checkpoint of the same step is replaced; those of later steps are left alone.

    Args:
        folder: created if it does not exist.
        step: 0 or more.
        tensors: dense, any dtype, shape and device; tensors that share memory are stored apart.
        state: JSON: string keys, no NaN; tuples come back as lists.
        blobs: file name to bytes.
        keep: checkpoints kept, this one counted; at least 1.

    Returns:
        The checkpoint's directory.

    Raises:
        CheckpointError: something that cannot be stored, or the disk failed or is full; earlier
            checkpoints are unchanged.
    """
    folder, blobs = Path(folder), dict(blobs or {})
    if step < 0 or keep < 1:
        raise CheckpointError(f"step {step} and keep {keep}; expected step >= 0 and keep >= 1")
    text = _to_json(state)
    for name in blobs:
        if not _BLOB.fullmatch(name) or name in (TENSORS, STATE, MANIFEST):
            raise CheckpointError(
                f"blob {name!r}: expected a plain file name other than {TENSORS}, {STATE}, "
                f"{MANIFEST}"
            )
    final = folder / f"step_{step}"
    try:
        _clear(final)
        with atomic.writing(final) as directory:
            save_file(_storable(tensors), directory / TENSORS)
            atomic.sync(directory / TENSORS)
            atomic.write_file(directory / STATE, text)
            for name, data in blobs.items():
                atomic.write_file(directory / name, data)
            files = [TENSORS, STATE, *blobs]
            atomic.write_file(directory / MANIFEST, _manifest(directory, step, files))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {final} could not be written ({error}); earlier checkpoints are as they "
            "were; free disk space or check the permissions, then resume"
        ) from error
    _prune(folder, step, keep)
    return final


def newest(folder: Path) -> Checkpoint | None:
    """Returns the valid checkpoint with the largest step, None where there is none.

    Invalid ones are passed over with a warning. Nothing on disk is changed.
    """
    found = _list(Path(folder))
    for step in sorted(found, reverse=True):
        for path in found[step]:
            try:
                return load(path)
            except CheckpointError as error:
                log.warning("%s; passing it over", printable(str(error)))
    return None


def tidy(folder: Path, step: int, *, keep: int) -> None:
    """Delete the leftovers of a kill: unfinished directories, and checkpoints up to `step` before
    the last `keep`."""
    try:
        atomic.sweep(Path(folder))
    except OSError as error:
        log.warning("what a kill left in %s could not be deleted (%s)", folder, error)
    _prune(Path(folder), step, keep)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint's directory, verifying every file against the manifest.

    Raises:
        CheckpointError: anything is missing, extra, or not as it was written.
    """
    path = Path(path)
    try:
        step, files = _verify(path)
        with safe_open(path / TENSORS, framework="pt") as file:
            # cloned, since what safetensors gives is a view of the file
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        state = json.loads((path / STATE).read_bytes())
        blobs = {name: (path / name).read_bytes() for name in files if name not in (TENSORS, STATE)}
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise CheckpointError(
            f"checkpoint {path} is not valid: {reason}; use an earlier one"
        ) from error
    return Checkpoint(step=step, tensors=tensors, state=state, blobs=blobs, path=path)


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: set[int] = set()
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided:
            raise CheckpointError(f"tensor {name!r} is {tensor.layout}; expected a dense one")
        stored = tensor.detach().cpu().contiguous()
        storage = stored.untyped_storage()
        # safetensors refuses tensors that share memory
        if stored.numel() and (storage.data_ptr() in seen or storage.nbytes() > stored.nbytes):
            stored = stored.clone()
        seen.add(stored.untyped_storage().data_ptr())
        out[name] = stored
    return out


def _to_json(state: Mapping[str, Any]) -> bytes:
    def odd(value: Any, where: str) -> str | None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                if not isinstance(key, str):
                    return f"{where} has the key {key!r}, which JSON would turn into text"
                if found := odd(inner, f"{where}.{key}"):
                    return found
        elif isinstance(value, list | tuple):
            for index, inner in enumerate(value):
                if found := odd(inner, f"{where}[{index}]"):
                    return found
        return None

    try:
        problem = odd(state, "state")
        text = json.dumps(state, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        problem = f"state is not JSON ({error})"
    if problem:
        raise CheckpointError(f"{problem}; expected string keys, finite numbers, text and lists")
    return text.encode()


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1, sort_keys=True).encode()


def _manifest(directory: Path, step: int, files: list[str]) -> bytes:
    entries = {
        name: {"bytes": (directory / name).stat().st_size, "sha256": _sha256(directory / name)}
        for name in files
    }
    body = {"format": FORMAT, "version": VERSION, "step": step, "files": entries}
    digest = hashlib.sha256(_canonical(body)).hexdigest()
    return _canonical({**body, "sha256": digest})


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(path: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Step and files of a directory whose manifest is whole and whose files have the right size."""
    raw = (path / MANIFEST).read_bytes()
    manifest = json.loads(raw)
    digest = manifest.pop("sha256")
    expected = hashlib.sha256(_canonical(manifest)).hexdigest()
    if digest != expected or raw != _canonical({**manifest, "sha256": digest}):
        raise ValueError(f"{MANIFEST} is damaged")
    if (manifest["format"], manifest["version"]) != (FORMAT, VERSION):
        raise ValueError(
            f"{MANIFEST} says {manifest['format']!r} version {manifest['version']}, expected "
            f"{FORMAT!r} version {VERSION}"
        )
    files = manifest["files"]
    present = {entry.name for entry in path.iterdir()}
    if present != {*files, MANIFEST}:
        raise ValueError(f"it holds {sorted(present)}, expected {sorted({*files, MANIFEST})}")
    for name, entry in files.items():
        if (size := (path / name).stat().st_size) != entry["bytes"]:
            raise ValueError(f"{name} has {size} bytes, expected {entry['bytes']}")
    return manifest["step"], files


def _verify(path: Path) -> tuple[int, list[str]]:
    step, files = _read_manifest(path)
    named = _STEP.match(path.name)
    if named and int(named[1]) != step:
        raise ValueError(f"{MANIFEST} is of step {step}")
    for name, entry in files.items():
        if _sha256(path / name) != entry["sha256"]:
            raise ValueError(f"{name} is damaged (its sha256 is not the manifest's)")
    return step, list(files)


def _list(folder: Path, *, below: int | None = None) -> dict[int, list[Path]]:
    """Directories by step; of two of one step the replaced one comes second."""
    found: dict[int, list[Path]] = {}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            match = _STEP.fullmatch(path.name.removesuffix(atomic.REPLACED))
            if match and path.is_dir() and (below is None or int(match[1]) < below):
                found.setdefault(int(match[1]), []).append(path)
    return found


def _clear(final: Path) -> None:
    """Remove leftovers, and a damaged checkpoint of the same step, which must not be kept."""
    if final.parent.is_dir():
        atomic.sweep(final.parent)
    if final.exists():
        try:
            _verify(final)
        except _DAMAGE:
            atomic.discard(final)


def _prune(folder: Path, step: int, keep: int) -> None:
    """Keep this checkpoint and the newest `keep - 1` earlier ones that look whole."""
    kept = 1
    try:
        for _, paths in sorted(_list(folder, below=step).items(), reverse=True):
            room = kept < keep
            for path in paths:
                if room and _looks_whole(path):
                    room, kept = False, kept + 1
                else:
                    atomic.discard(path)
    except OSError as error:
        log.warning("an old checkpoint in %s could not be deleted (%s)", folder, error)


def _looks_whole(path: Path) -> bool:
    try:
        _read_manifest(path)
    except _DAMAGE:
        return False
    return True
