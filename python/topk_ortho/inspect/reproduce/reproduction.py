"""The command `reproduce`: a finished run trained again from its configuration, and compared."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from topk_ortho.activations import Activations, prepare
from topk_ortho.activations.fingerprint import fingerprint
from topk_ortho.config import ConfigError
from topk_ortho.config.paths import find
from topk_ortho.inspect.finished_run import FinishedRun
from topk_ortho.inspect.reproduce.comparison import MEASURED, Comparison, Differing, compare_folders
from topk_ortho.machine.hardware import choose_device
from topk_ortho.machine.interrupt import kept
from topk_ortho.training import train

SHOWN = 20
"""Differences printed; JSON has them all."""


@dataclass(frozen=True)
class Reproduction:
    """The answer of `topk-ortho reproduce`.

    Attributes:
        run: the folder of the first run.
        again: that of the second, None where it was not kept or not made.
        equal: whether everything compared is the same, bit for bit.
        not_run: why it was not trained again, None where it was.
        compared: what was the same, in words.
        differing: what was not.
        elsewhere: versions, hardware and commit that differ between the two runs.
        only_now: numbers that the first run does not have, as one of an earlier version may.
        unchecked: data that may have changed without notice, in words.
    """

    run: str
    again: str | None
    equal: bool
    not_run: str | None
    compared: tuple[str, ...]
    differing: tuple[Differing, ...]
    elsewhere: tuple[str, ...]
    only_now: tuple[str, ...]
    unchecked: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Returns plain lists, dicts and numbers, and what was left out of the comparison."""
        return {**asdict(self), "left_out": MEASURED}


def reproduce(path: str | Path, *, out: str | Path | None = None) -> Reproduction:
    """Train a finished run again and compare.

    Nothing is trained where the data is missing or was changed, since the metrics could not agree.

    Args:
        path: a run folder; it is only read.
        out: folder of the second run, which must not exist; a temporary one unless given.

    Raises:
        ConfigError: no finished run there, or `out` exists.
        Interrupted: stopped before the end; only a given `out` can be resumed.
    """
    run = FinishedRun.open(Path(path))
    data = _same_data(run)
    if isinstance(data, str):
        return _answer(run, not_run=data)
    if out is not None:
        return _again(run, Path(out), data, kept=True)
    nothing = "stopped, and nothing of the second run was kept; the same command starts it again."
    temporary = tempfile.TemporaryDirectory(prefix="topk-ortho-reproduce-")
    with kept(nothing, always=True), temporary as folder:
        return _again(run, Path(folder) / "run", data, kept=False)


def as_text(found: Reproduction) -> str:
    """The answer for the terminal, without a newline at its end."""
    if found.not_run is not None:
        return f"{found.run} was not run again: {found.not_run}"
    if found.equal:
        lines = [f"{found.run} was reproduced bit for bit:"]
    else:
        lines = [f"{found.run} was NOT reproduced: {len(found.differing)} numbers differ"]
        lines += [
            f"  {d.file}, {d.what}: {d.then} then, {d.now} now" for d in found.differing[:SHOWN]
        ]
        if len(found.differing) > SHOWN:
            lines.append(f"  and {len(found.differing) - SHOWN} more; --json lists them all")
    lines += [f"  same: {part}" for part in found.compared]
    left_out = "; ".join(f"{what} ({', '.join(keys)})" for what, keys in MEASURED.items())
    lines.append(f"left out: {left_out}")
    lines += [f"the two runs differ in {what}" for what in found.elsewhere]
    if found.only_now:
        lines.append(f"not in the first run: {len(found.only_now)} numbers of {_files(found)}")
    lines += [f"not known whether it changed: {what}" for what in found.unchecked]
    if found.again is not None:
        lines.append(f"second run: {found.again}")
    elif not found.equal:
        lines.append("the second run was not kept; give --out FOLDER to keep it")
    return "\n".join(lines)


def _same_data(run: FinishedRun) -> Activations | str:
    """Returns the run's own data, or why it is not available."""
    data_then: Mapping[str, Any] = run.manifest.get("data") or {}
    # earlier versions recorded paths as they were given
    recorded = {str(find(Path(path), run.folder.path)): then for path, then in data_then.items()}
    now = fingerprint(run.config) if recorded else {}
    changes = [_change(name, recorded.get(name), now.get(name)) for name in {**recorded, **now}]
    if any(changes):
        return f"its data is not what it was: {'; '.join(filter(None, changes))}"
    try:
        data = prepare(run.config, device=str(choose_device(run.config.device)))
    except ConfigError as error:
        return f"its data is not available: {error}"
    differs = run.data_differs(data)
    return data if differs is None else f"its data is not what it was: {differs}"


def _change(name: str, then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str | None:
    if then == now or (then is None and now is None):
        return None
    if now is None:
        return f"{name} is missing"
    if then is None:
        return f"{name} is new"
    sizes = f"{then.get('bytes')} bytes then, {now['bytes']} now"
    return f"{name} was changed ({sizes})"


def _unchecked(run: FinishedRun) -> Iterator[str]:
    if "data" not in run.manifest:
        yield "the data beyond its first rows (the first run did not record its files)"
    config = run.config
    if config.activations == "language-model":
        if config.dataset:
            yield f"the dataset {config.dataset}"
        if not Path(config.model).expanduser().is_dir():
            yield f"the model {config.model}"


def _again(run: FinishedRun, out: Path, data: Activations, *, kept: bool) -> Reproduction:
    train(replace(run.config, log_to=()), out, data=data)
    compared = compare_folders(run.folder.path, out, step=run.config.steps)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    return _answer(
        run,
        again=str(out) if kept else None,
        compared=compared,
        elsewhere=tuple(_elsewhere(run.manifest, manifest)),
    )


def _answer(
    run: FinishedRun,
    *,
    again: str | None = None,
    not_run: str | None = None,
    compared: Comparison | None = None,
    elsewhere: tuple[str, ...] = (),
) -> Reproduction:
    return Reproduction(
        run=str(run.folder.path),
        again=again,
        equal=compared is not None and not compared.differing,
        not_run=not_run,
        compared=tuple(compared.equal) if compared else (),
        differing=tuple(compared.differing) if compared else (),
        elsewhere=elsewhere,
        only_now=tuple(compared.only_now) if compared else (),
        unchecked=tuple(_unchecked(run)),
    )


def _elsewhere(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found = []
    for part in ("versions", "hardware"):
        old, new = then.get(part) or {}, now.get(part) or {}
        keys = (*old, *(key for key in new if key not in old))
        found += [
            f"{part}, {key}: {old.get(key)} then, {new.get(key)} now"
            for key in keys
            if old.get(key) != new.get(key)
        ]
    if then.get("git_commit") != now.get("git_commit"):
        found.append(f"git commit: {then.get('git_commit')} then, {now.get('git_commit')} now")
    return found


def _files(found: Reproduction) -> str:
    return ", ".join(sorted({place.split(", ")[0] for place in found.only_now}))
