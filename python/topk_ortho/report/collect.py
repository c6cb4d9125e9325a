"""From folders to comparisons: which runs are compared with each other, as which arms.

An ablation folder is compared as its plan says. Any other folder is searched for runs; runs on the
same data, of the same size and length, make one comparison, and what else they differ in makes the
arms. Runs are paired by seed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from topk_ortho.config import ConfigError
from topk_ortho.report.arms import (
    NO_MATTER,
    Arm,
    Comparison,
    describe,
    differences,
    plain_value,
    short,
)
from topk_ortho.report.reading import Run, Settings, objects, read_json, read_run
from topk_ortho.report.typeset import plain
from topk_ortho.report.words import DEFAULT_ARMS, NONE, VARIANT

_FIRST = (NONE, *DEFAULT_ARMS)
"""Arms that come before all others."""

_OF_A_PENALTY = re.compile(r"(pairs|penalty|history)\.")
_OF_AN_ARM = re.compile(r"(pairs|penalty|history)\.|sae\.(kind|prefixes|bandwidth)")
_SEED_FOLDER = re.compile(r"seed-\d+(-[0-9a-f]+)?")
PLAN = "ablation.json"
_WRITTEN = ("config.toml", "metrics.jsonl", "result.json")
_LONGEST_NAME = 100
_NOT_SEARCHED = {"checkpoints", "sae", "plots", "report"}


def collect(paths: Sequence[Path]) -> list[Comparison]:
    """The comparisons in some folders, in their order.

    Raises:
        ConfigError: a path that is no folder, or in which there is no run.
    """
    found: list[Comparison] = []
    loose: dict[Path, Run] = {}
    of_plans: set[Path] = set()
    for path in map(Path, paths):
        if not path.is_dir():
            raise ConfigError(
                f"{path} was given, but the folder of a run, of an ablation or of "
                "`make bars` was expected; check the path."
            )
        plans, runs = _search(path)
        if not plans and not runs:
            raise ConfigError(
                f"{path} was given, but there is no run in it; give a folder that "
                "`topk-ortho train`, `ablate` or `make bars` has written."
            )
        found += [planned(plan) for plan in plans]
        of_plans |= {place for plan in plans for place in places(plan)}
        loose |= {run.folder.resolve(): run for run in runs}
    return found + _groups([run for place, run in loose.items() if place not in of_plans])


def newest(root: Path) -> Path:
    """Returns the folder in `root` of which a run or an ablation was written last.

    Raises:
        ConfigError: there is none.
    """
    written: dict[Path, float] = {}
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if folder.is_dir() and folder.name[0] != ".":
            plans, runs = _search(folder)
            files = [plan / PLAN for plan in plans]
            files += [run.folder / name for run in runs for name in _WRITTEN]
            times = [file.stat().st_mtime for file in files if file.is_file()]
            written |= {folder: max(times)} if times else {}
    if not written:
        raise ConfigError(
            f"report was given no path, and there is no run in {root}; give the folder of a run or "
            "an ablation."
        )
    return max(written, key=lambda folder: written[folder])


def _search(path: Path) -> tuple[list[Path], list[Run]]:
    """Ablations and runs in a folder, by name; their insides are not searched again."""
    plans, runs = [], []
    for root, folders, files in os.walk(path):
        here = Path(root)
        if PLAN in files:
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
    """Returns the settings that a comparison has in common: all that is not the arm's own."""
    return {
        key: value
        for key, value in settings.items()
        if key not in NO_MATTER and not _OF_AN_ARM.match(key)
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


def _label(arm: str, values: Mapping[str, Any]) -> str:
    """`arm, tau mean-std`; the arm alone where nothing is varied."""
    shown = [f"{short(key)} {plain_value(value)}" for key, value in values.items()]
    return ", ".join([arm, *shown])


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
    order = sorted(by_name, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    return tuple(Arm(name, tuple(by_name[name].values())) for name in order), notes


def planned(folder: Path) -> Comparison:
    """The runs of an ablation's plan, those that failed or were not run included."""
    plan = read_json(folder / PLAN)
    by_name: dict[str, list[Run]] = {}
    plain = set()
    for entry in objects(plan.get("runs")):
        run = _planned_run(folder, entry)
        name = str(entry.get("label") or run.arm)
        plain |= {name} if run.arm == NONE else set()
        by_name.setdefault(name, []).append(run)
    order = sorted(by_name, key=lambda name: 0 if name in plain else 1)
    arms = tuple(
        Arm(name, tuple(by_name[long])) for long, name in zip(order, _shortened(order), strict=True)
    )
    names = plan.get("left_out_arms")
    left = ", ".join(map(str, names)) if isinstance(names, list) else ""
    notes = (f"Left out of every comparison on request: {left}.",) if left else ()
    return Comparison(folder.resolve().name, folder, arms, plan, notes)


def places(folder: Path) -> set[Path]:
    """Returns the folders of all runs of a plan, those of its tuning included."""
    plan = read_json(folder / PLAN)
    tuning = plan.get("tuning")
    entries = objects(plan.get("runs"))
    if isinstance(tuning, dict):
        entries += objects(tuning.get("runs"))
    return {_place(folder, entry).resolve() for entry in entries}


def _place(folder: Path, entry: dict[str, Any]) -> Path:
    name = Path(str(entry.get("folder") or entry.get("hash"))).name
    return folder / "runs" / plain(name, longest=_LONGEST_NAME)


def _shortened(names: Sequence[str]) -> list[str]:
    """`penalty.tau=fixed` as `tau=fixed`, where the names stay apart."""
    short = [re.sub(r"\b[a-z]+\.([a-z_-]+=)", r"\1", name) for name in names]
    return short if len(set(short)) == len(set(names)) else list(names)


def _planned_run(folder: Path, entry: dict[str, Any]) -> Run:
    place = _place(folder, entry)
    arm, seed = str(entry.get("arm", VARIANT)), entry.get("seed")
    seed = seed if isinstance(seed, int) else None
    varied = entry.get("axis")
    axis = {str(key).replace("-", "_"): value for key, value in varied.items()} \
        if isinstance(varied, dict) else {}  # fmt: skip
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
