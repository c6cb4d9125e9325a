"""The plan of an ablation: every run it needs, stored as `ablation.json` before the first one.

A run is named by the hash of its configuration, so an arm that an axis does not touch is planned
once per seed, and a plan that grows (more seeds, more values) never computes anything again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from topk_ortho.checkpoint.locks import locked
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.registry import CRITERIA
from topk_ortho.config.rules import check
from topk_ortho.config.toml import config_hash, config_text, nearest
from topk_ortho.report.words import DEFAULT, NONE, VARIANT
from topk_ortho.studies.arms import ALWAYS_ON, VARIED, all_arms
from topk_ortho.studies.grid import Axis, cells, shown, with_values

VERSION = 1
NAME = "ablation.json"
CONSTRAINT = ("pairs.", "penalty.", "history.")
FIRST_SEED = 400
"""Reported seeds start here: defaults and tuning were settled on 0 to 9, after trying some from
100, 200 and 300 on."""


@dataclass(frozen=True)
class Subject:
    """One row of the results: the varied arm in a cell of the grid, or a baseline beside it.

    Attributes:
        label: how tables name it.
        arm: `variant`, or the baseline's name.
        axis: the values of the axes that touch it.
        config: its configuration, whatever the seed.
    """

    label: str
    arm: str
    axis: dict[str, Any]
    config: TrainConfig


@dataclass(frozen=True)
class Run:
    """One training run of the plan.

    Attributes:
        hash: of the configuration; names the folder.
    """

    label: str
    arm: str
    axis: dict[str, Any]
    seed: int
    hash: str
    config: TrainConfig = field(repr=False)

    @property
    def folder(self) -> str:
        """Below the ablation's own folder."""
        return f"runs/{self.hash}"

    def as_json(self) -> dict[str, Any]:
        """An entry of `runs` in `ablation.json`."""
        return {
            "label": self.label,
            "arm": self.arm,
            "axis": plain(self.axis),
            "seed": self.seed,
            "hash": self.hash,
            "folder": self.folder,
        }


@dataclass(frozen=True)
class Plan:
    """The runs of an ablation.

    Attributes:
        base: the configuration that axes and arms change, without a baseline beside it.
        arms: the baselines, in order.
        left_out: baselines that were left out by name.
        runs: every run, seed by seed, each once.
        tuning: what was tried to choose coefficients, None where nothing was.
    """

    base: TrainConfig
    axes: tuple[Axis, ...]
    arms: tuple[str, ...]
    left_out: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    tuning: dict[str, Any] | None = None

    def subjects(self) -> list[tuple[str, list[Run]]]:
        """Returns the rows of the results in order: label, and its runs."""
        rows: dict[str, list[Run]] = {}
        for run in self.runs:
            rows.setdefault(run.label, []).append(run)
        return list(rows.items())

    def as_json(self) -> dict[str, Any]:
        """Returns `ablation.json` without its time."""
        tuning = {} if self.tuning is None else {"tuning": self.tuning}
        return {
            "version": VERSION,
            "base": config_text(self.base),
            "axes": {axis.option: plain(axis.values) for axis in self.axes},
            "arms": list(self.arms),
            "seeds": list(self.seeds),
            "left_out_arms": list(self.left_out),
            "runs": [run.as_json() for run in self.runs],
        } | tuning


def plain(value: Any) -> Any:
    """Values of options as JSON has them."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def seeds_of(given: Sequence[int]) -> tuple[int, ...]:
    """Returns the seeds of `--seeds`: one number counts them from 400 on, several are the seeds.

    Raises:
        ConfigError: no seed, or one twice.
    """
    seeds = tuple(range(FIRST_SEED, FIRST_SEED + given[0])) if len(given) == 1 else tuple(given)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"--seeds {' '.join(map(str, given))} was given, but a number of seeds or different "
            "seeds were expected; --seeds 10 takes 400 to 409."
        )
    return seeds


def baselines(
    base: TrainConfig, without: Sequence[str], added: Sequence[str] = ()
) -> tuple[str, ...]:
    """The arms that stand beside the varied one: those always on that stay, and further ones.

    Raises:
        ConfigError: a name that is none of them.
    """
    others = [name for name in all_arms(base) if name not in (VARIED, *ALWAYS_ON)]
    for option, names, known in (("without", without, ALWAYS_ON), ("with", added, others)):
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"--{option}-arm {name} was given, but one of {', '.join(known)} was "
                    f"expected{nearest(name, list(known))}."
                )
    kept = {*ALWAYS_ON, *added} - set(without)
    return tuple(name for name in all_arms(base) if name in kept)


def subjects(base: TrainConfig, axes: Sequence[Axis], names: Sequence[str]) -> Iterator[Subject]:
    """Baselines and variants in every cell of the grid, each once.

    Raises:
        ConfigError: a combination of values that cannot be used; the message names the cell.
    """
    seen: set[str] = set()
    for cell in cells(axes):
        for name in names:
            subject = _baseline(base, cell, name, axes)
            if subject.label not in seen:
                seen.add(subject.label)
                yield subject
    for cell in cells(axes):
        label = shown(cell) or DEFAULT
        yield Subject(label, VARIANT, cell, _checked(with_values(base, cell), label))


def _baseline(base: TrainConfig, cell: dict[str, Any], name: str, axes: Sequence[Axis]) -> Subject:
    """A baseline with only those values of the cell that change what it computes."""
    plain_arm = all_arms(base)[name]

    def touches(axis: Axis) -> bool:
        if axis.option.startswith(_unread(plain_arm)):
            return False
        return any(all_arms(with_values(base, {axis.option: v}))[name] != plain_arm
                   for v in axis.values)  # fmt: skip

    kept = {axis.option: cell[axis.option] for axis in axes if touches(axis)}
    label = f"{name}, {shown(kept)}" if kept else name
    return Subject(label, name, kept, _checked(all_arms(with_values(base, kept))[name], label))


def _unread(arm: TrainConfig) -> tuple[str, ...]:
    """Sections that the arm never uses, although its configuration carries them."""
    if not arm.constrained:
        return CONSTRAINT
    return ("pairs.", "history.") if CRITERIA[arm.pairs.criterion].own_size else ()


def _checked(config: TrainConfig, label: str) -> TrainConfig:
    try:
        return check(config)
    except ConfigError as error:
        raise ConfigError(f"{label}: {error}") from None


def runs_of(found: Iterable[Subject], seeds: Sequence[int]) -> tuple[Run, ...]:
    """The runs of all subjects, seed by seed, so that early results are paired already."""
    found = list(found)
    runs = []
    for seed in seeds:
        for s in found:
            config = replace(s.config, seed=seed)
            runs.append(Run(s.label, s.arm, s.axis, seed, config_hash(config), config))
    return tuple(runs)


def control(axis: dict[str, Any], runs: Sequence[Run]) -> str | None:
    """Label of the `none` runs that a row is compared with: those in the same cell."""
    for run in runs:
        if run.arm == NONE and run.axis.items() <= axis.items():
            return run.label
    return None


def store(plan: Plan, root: Path) -> None:
    """Write `ablation.json`; a plan that holds all of an earlier one takes its place.

    Raises:
        ConfigError: the folder holds another ablation, or cannot be written.
    """
    path, new = root / NAME, plan.as_json()
    try:
        with locked(root / ".locks" / "plan"):
            _replace(path, new, tuning_alone=not plan.runs)
    except OSError as error:
        raise ConfigError(
            f"--out {root} was given, but it cannot be written ({error.strerror}); take a "
            "folder that can."
        ) from None


def _replace(path: Path, new: dict[str, Any], *, tuning_alone: bool) -> None:
    from topk_ortho.training.folder import RunFolder

    root = path.parent
    old = read(root) if path.exists() else None
    if old is None and any(not (p.name.startswith(".") or p.is_symlink()) for p in root.iterdir()):
        raise ConfigError(
            f"--out {root} was given, but it is in use and holds no {NAME}; take a new folder."
        )
    if old is not None:
        if not _hashes(old, tuning_alone=tuning_alone) <= _hashes(new):
            raise ConfigError(
                f"--out {root} was given, but it holds another ablation; take another folder, or "
                f"the settings that {path} states (more seeds and values may be added)."
            )
        if not new["runs"]:  # tries alone: what was planned after them stays
            new |= {key: old[key] for key in ("runs", "tuning")}
    new = {"version": VERSION, "created": _now() if old is None else old["created"]} | new
    if new != old:
        RunFolder(root).write_json(path.name, new)


def read(root: Path) -> dict[str, Any]:
    """Returns `ablation.json` of a folder.

    Raises:
        ConfigError: it is missing, damaged, or of another version.
    """
    path = root / NAME
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        version = table["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}), but the plan of an ablation was expected; "
            "take another folder."
        ) from None
    if version != VERSION:
        raise ConfigError(
            f"{path} has version {version}, but {VERSION} was expected; take another folder."
        )
    return table


def _hashes(table: dict[str, Any], *, tuning_alone: bool = False) -> set[str]:
    tuning = table.get("tuning", {}).get("runs", [])
    return {run["hash"] for run in (tuning if tuning_alone else [*tuning, *table["runs"]])}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
