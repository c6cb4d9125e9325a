"""Folders become comparisons: which runs stand beside each other, as which arms.

An ablation folder is compared as its plan says. Any other folder is searched for runs; runs on the
same data, of the same size and length, make one comparison, and what else they differ in makes the
arms. Runs are paired by seed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from topk_ortho.config import ConfigError
from topk_ortho.report.reading import Run, Settings, flat_settings, read_json, read_run

NONE = "none"
FIRST = (NONE, "coactivation")
"""Arms that come before all others."""

_OF_A_PENALTY = re.compile(r"(pairs|penalty|history)\.")
_OF_AN_ARM = re.compile(r"(pairs|penalty|history)\.|sae\.(kind|prefixes|bandwidth)")
_NO_MATTER = {
    "seed",
    "with_baseline",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "device",
    "threads",
    "pairs.memory_budget",
    "history.queue",
}
_SEED_FOLDER = re.compile(r"seed-\d+(-[0-9a-f]+)?")
_NOT_SEARCHED = {"checkpoints", "sae", "plots", "report"}


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed alone."""

    name: str
    runs: tuple[Run, ...]

    def values(self, key: str) -> dict[Any, float | None]:
        """A figure by seed; runs without figures are left out."""
        return {run.seed: run.value(key) for run in self.runs if run.result}

    @property
    def finished(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.result)

    @property
    def logged(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.lines)

    @property
    def settings(self) -> Settings:
        return next((run.settings for run in self.runs if run.settings), {})

    def setting(self, key: str, default: Any = None) -> Any:
        """A setting, that of the plan where there is no run yet."""
        return self.axis.get(key, self.settings.get(key, default))

    @property
    def criterion(self) -> str:
        return self.runs[0].criterion

    @property
    def plain(self) -> bool:
        """Whether this is a `none` arm."""
        return self.runs[0].arm == NONE

    @property
    def axis(self) -> Settings:
        return self.runs[0].axis


@dataclass(frozen=True)
class Comparison:
    """Arms on the same data.

    Attributes:
        title: for headings.
        source: the folder they were found in.
        arms: `none` first.
        plan: of an ablation, else empty.
        notes: what was left out, as sentences.
    """

    title: str
    source: Path
    arms: tuple[Arm, ...]
    plan: dict[str, Any]
    notes: tuple[str, ...] = ()

    def control(self, arm: Arm) -> Arm | None:
        """The `none` arm with the same values on the axes that both have; None for itself."""
        if arm.plain:
            return None
        agreeing = [
            other
            for other in self.arms
            if other.plain
            and all(arm.setting(key, value) == value for key, value in other.axis.items())
        ]
        return max(agreeing, key=lambda other: len(other.axis), default=None)

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for arm in self.arms for run in arm.runs)


def collect(paths: Sequence[Path]) -> list[Comparison]:
    """The comparisons in some folders, in their order.

    Raises:
        ConfigError: a path that is no folder, or in which there is no run.
    """
    found: list[Comparison] = []
    loose: dict[Path, Run] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise ConfigError(
                f"{path} was given, but the folder of a run, of an ablation or of `topk-ortho "
                "bars` was expected; check the path."
            )
        plans, runs = _search(path)
        if not plans and not runs:
            raise ConfigError(
                f"{path} was given, but there is no run in it; give a folder that "
                "`topk-ortho train`, `ablate` or `bars` has written."
            )
        found += [_planned(plan) for plan in plans]
        loose |= {run.folder.resolve(): run for run in runs}
    return found + _groups(list(loose.values()))


def _search(path: Path) -> tuple[list[Path], list[Run]]:
    """Ablations and runs in a folder, by name; nothing inside of them is looked at again."""
    plans, runs = [], []
    for root, folders, files in os.walk(path):
        here = Path(root)
        if "ablation.json" in files:
            plans.append(here)
            folders.clear()
        elif "config.toml" in files or "metrics.jsonl" in files:
            runs.append(read_run(here, arm=_arm(here)))
            if (here / "baseline").is_dir():
                runs.append(read_run(here / "baseline", arm=NONE))
            folders.clear()
        folders[:] = sorted(f for f in folders if f not in _NOT_SEARCHED and f[0] != ".")
    return plans, [run if run.arm else replace(run, arm=run.criterion) for run in runs]


def _arm(folder: Path) -> str:
    """The arm that a folder of bars is named after, nothing elsewhere."""
    return folder.parent.name if _SEED_FOLDER.fullmatch(folder.name) else ""


def _groups(runs: list[Run]) -> list[Comparison]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(repr(sorted(_comparable(run.settings).items())), []).append(run)
    return [_group(members) for members in groups.values()]


def _comparable(settings: Settings) -> Settings:
    """What has to be equal for a comparison: all that is not the arm's own."""
    return {
        key: value
        for key, value in settings.items()
        if key not in _NO_MATTER and not _OF_AN_ARM.match(key)
    }


def _group(runs: list[Run]) -> Comparison:
    source = Path(os.path.commonpath([run.folder.resolve() for run in runs]))
    named = all(_SEED_FOLDER.fullmatch(run.folder.name) for run in runs)
    if named and len(runs) > 1:
        title = runs[0].folder.resolve().parent.parent.name
    else:
        title = describe(runs[0].settings) or source.name
    arms, notes = _arms(_told_apart(runs))
    return Comparison(title, source, arms, {}, tuple(notes))


def _told_apart(runs: list[Run]) -> list[tuple[str, Run]]:
    """Runs with the names of their arms, which say what differs besides the seed."""
    by_arm: dict[str, list[Run]] = {}
    for run in runs:
        by_arm.setdefault(run.arm, []).append(run)
    named = []
    for arm, members in by_arm.items():
        differing = differences([run.settings for run in members])
        if arm == NONE:
            differing = [key for key in differing if not _OF_A_PENALTY.match(key)]
        for run in members:
            axis = {key: run.settings.get(key) for key in differing}
            named.append((_label(arm, axis), replace(run, axis=axis)))
    return named


def differences(settings: Iterable[Settings]) -> list[str]:
    """The settings that are not the same everywhere, seeds and the like left out."""
    several = [each for each in settings if each]
    keys = sorted({key for each in several for key in each} - _NO_MATTER)
    return [key for key in keys if len({repr(each.get(key)) for each in several}) > 1]


def _label(arm: str, values: Mapping[str, Any]) -> str:
    """`arm, tau mean-std`; the arm alone where nothing is varied."""
    shown = [f"{short(key)} {_plain(value)}" for key, value in values.items()]
    return ", ".join([arm, *shown] if arm != "variant" or not shown else shown)


def short(key: str) -> str:
    """`penalty.tau` as `tau`."""
    return key.rpartition(".")[2].replace("_", "-")


def _plain(value: Any) -> str:
    return "default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _arms(runs: Iterable[tuple[str, Run]]) -> tuple[tuple[Arm, ...], list[str]]:
    """Arms in the order of the page, and a note for each run that differs from another of it."""
    by_name: dict[str, dict[int | None, Run]] = {}
    notes = []
    for name, run in runs:
        seeds = by_name.setdefault(name, {})
        before = seeds.setdefault(run.seed, run)
        if not before.result:
            seeds[run.seed] = run
        elif run.result and run.value("explained_variance") != before.value("explained_variance"):
            notes.append(
                f"{run.folder} is {name}, seed {run.seed}, once more, and ended otherwise; "
                f"{before.folder} counts."
            )
    order = sorted(by_name, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    return tuple(Arm(name, tuple(by_name[name].values())) for name in order), notes


def _planned(folder: Path) -> Comparison:
    """The runs of an ablation's plan, those that failed or were not run included."""
    plan = read_json(folder / "ablation.json")
    entries = [entry for entry in plan.get("runs", []) if isinstance(entry, dict)]
    by_name: dict[str, list[Run]] = {}
    plain = set()
    for entry in entries:
        run = _planned_run(folder, entry)
        axis = run.axis if run.arm != "variant" else {}
        name = str(entry.get("label") or "variant") if run.arm == "variant" else run.arm
        name = _label(name, axis)
        plain |= {name} if run.arm == NONE else set()
        by_name.setdefault(name, []).append(run)
    order = sorted(by_name, key=lambda name: 0 if name in plain else 1)
    arms = tuple(Arm(name, tuple(by_name[name])) for name in order)
    left = ", ".join(map(str, plan.get("left_out_arms") or []))
    notes = (f"Left out of every comparison on request: {left}.",) if left else ()
    return Comparison(folder.resolve().name, folder, arms, plan, notes)


def _planned_run(folder: Path, entry: dict[str, Any]) -> Run:
    place = folder / "runs" / Path(str(entry.get("folder") or entry.get("hash"))).name
    arm, axis, seed = str(entry.get("arm", "variant")), entry.get("axis") or {}, entry.get("seed")
    failed = place.with_name(f"{place.name}.failed.json")
    if place.is_dir():
        run = read_run(place, arm=arm, axis=axis)
        run = run if run.seed is not None else replace(run, seed=seed)
    else:
        run = Run(lines=[], folder=place, arm=arm, seed=seed, axis=axis, problem="not run yet")
    if failed.exists() and not run.result:
        try:
            reason = str(read_json(failed).get("reason") or "no reason was stored")
        except ConfigError as error:
            reason = str(error)
        run = replace(run, problem=f"failed: {reason}", failed=True)
    return run


def describe(settings: Settings) -> str:
    """The data and the size of a run in a few words."""
    kind = settings.get("activations")
    if kind is None:
        return ""
    data = {
        "synthetic": f"synthetic {settings.get('synthetic.preset', 'data')}",
        "language-model": f"{settings.get('model', 'a model')} at {settings.get('hook', '?')}",
        "files": f"activations in {settings.get('data', 'files')}",
    }.get(str(kind), str(kind))
    planted = ", hierarchies planted" if settings.get("plant.enabled") else ""
    k, d_sae = settings.get("sae.k"), settings.get("sae.d_sae")
    return f"{data}{planted}, {d_sae} features, L0 {_plain(k)}"


def base_settings(comparison: Comparison) -> Settings:
    """The settings that a comparison starts from: the plan's, else those of its first arm."""
    base = comparison.plan.get("base")
    if isinstance(base, str):
        try:
            return flat_settings(base, where=comparison.source / "ablation.json")
        except ConfigError:
            pass
    return next((arm.settings for arm in comparison.arms if arm.settings), {})
