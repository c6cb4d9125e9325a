"""Arms of a study that are paired by seed: their runs, and tables of what was measured of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from topk_ortho.statistics.differences import mean, paired
from topk_ortho.terminal import aligned

CONTROL = "none"


def topk_ortho(*arguments: object) -> None:
    """Runs a command of the package to its end.

    Raises:
        CalledProcessError: it failed.
    """
    subprocess.run([sys.executable, "-m", "topk_ortho.cli", *map(str, arguments)], check=True)


def ablated(out: Path, *options: object) -> list[dict[str, Any]]:
    """Runs `topk-ortho ablate`; returns its runs, each with `label`, `seed` and `folder`."""
    topk_ortho("ablate", "--out", out, *options)
    runs: list[dict[str, Any]] = json.loads((out / "ablation.json").read_text())["runs"]
    return [{**run, "folder": out / run["folder"]} for run in runs]


def table(runs: Sequence[Mapping[str, Any]], part: str, names: Sequence[str]) -> list[str]:
    """Means over seeds, and under each arm its difference from the control with its interval."""
    by_arm: dict[str, dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        by_arm.setdefault(run["label"], {})[run["seed"]] = run[part]
    rows: list[tuple[str, ...]] = [(part, "seeds", *names)]
    for label, found in by_arm.items():
        values = {n: {s: one[n] for s, one in found.items()} for n in names}
        means = [mean(values[n]) for n in names]
        rows.append(
            (label, str(len(found)), *("-" if m is None else f"{m.mean:.4f}" for m in means))
        )
        if label != CONTROL and len(found) > 1:
            against = by_arm[CONTROL]
            rows.append(("  against none", "", *(
                shown(paired(values[n], {s: one[n] for s, one in against.items()})) for n in names
            )))  # fmt: skip
    return list(aligned(rows))


def shown(difference: Any) -> str:
    """A paired difference with its interval."""
    if difference is None:
        return "-"
    return f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
