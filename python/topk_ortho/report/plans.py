"""Ablations: the runs of a plan, those that failed or were not run included."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from topk_ortho.config import ConfigError
from topk_ortho.report.arms import NONE, Arm, Comparison
from topk_ortho.report.reading import Run, read_json, read_run

PLAN = "ablation.json"


def planned(folder: Path) -> Comparison:
    """The runs of an ablation's plan, those that failed or were not run included."""
    plan = read_json(folder / PLAN)
    entries = [entry for entry in plan.get("runs", []) if isinstance(entry, dict)]
    by_name: dict[str, list[Run]] = {}
    plain = set()
    for entry in entries:
        run = _planned_run(folder, entry)
        name = str(entry.get("label") or run.arm)
        plain |= {name} if run.arm == NONE else set()
        by_name.setdefault(name, []).append(run)
    order = sorted(by_name, key=lambda name: 0 if name in plain else 1)
    arms = tuple(
        Arm(name, tuple(by_name[long])) for long, name in zip(order, _shortened(order), strict=True)
    )
    left = ", ".join(map(str, plan.get("left_out_arms") or []))
    notes = (f"Left out of every comparison on request: {left}.",) if left else ()
    return Comparison(folder.resolve().name, folder, arms, plan, notes)


def places(folder: Path) -> set[Path]:
    """Where all runs of a plan lie, those of its tuning included."""
    plan = read_json(folder / PLAN)
    tuning = plan.get("tuning")
    entries = [*plan.get("runs", []), *(tuning.get("runs", []) if isinstance(tuning, dict) else [])]
    return {_place(folder, entry).resolve() for entry in entries if isinstance(entry, dict)}


def _place(folder: Path, entry: dict[str, Any]) -> Path:
    return folder / "runs" / Path(str(entry.get("folder") or entry.get("hash"))).name


def _shortened(names: Sequence[str]) -> list[str]:
    """`penalty.tau=fixed` as `tau=fixed`, where the names stay apart."""
    short = [re.sub(r"\b[a-z]+\.([a-z_-]+=)", r"\1", name) for name in names]
    return short if len(set(short)) == len(set(names)) else list(names)


def _planned_run(folder: Path, entry: dict[str, Any]) -> Run:
    place = _place(folder, entry)
    arm, seed = str(entry.get("arm", "variant")), entry.get("seed")
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
