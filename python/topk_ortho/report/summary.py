"""The end of a run, for the terminal: plots drawn, both arms in one table, and what it cost."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topk_ortho.machine.interrupt import kept
from topk_ortho.metrics.health import health, loud
from topk_ortho.report.plots import draw
from topk_ortho.report.table import COLUMNS, comparison_table
from topk_ortho.report.words import NONE
from topk_ortho.terminal import printable

MEASURED = ("absorption_rate", "excess")
ALONE = (
    f"The arm without the constraint ({NONE}) was not trained; --with-baseline trains it too, and "
    "compares."
)
SHOWN = (*COLUMNS, "ce_score", "kl_score", "c_dec")


def finish(folder: str | Path) -> str:
    """Draw the plots of a finished run and return what to print."""
    path = Path(folder)
    result = _read(path / "result.json")
    baseline_path = path / "baseline" / "result.json"
    rows = [(result["criterion"], result)]
    if baseline_path.exists():
        rows.insert(0, (NONE, _read(baseline_path)))
    columns = [name for name in SHOWN if any(figures.get(name) is not None for _, figures in rows)]
    again = f"topk-ortho train --resume {shlex.quote(str(path))}"
    with kept(f"stopped while the plots were drawn; the run is finished, and {again} draws them."):
        draw(path)
    lines = [comparison_table(rows, columns)]
    if len(rows) == 2:
        lines.append(verdict(constrained=result, baseline=rows[0][1]))
    elif result["criterion"] != NONE:
        lines.append(ALONE)
    for name, figures in rows:
        if said := loud(figures):
            lines.append(f"{name}: {said}.")
    lines.append(f"run folder: {printable(str(path))}")
    return "\n\n".join(lines)


def finish_several(folder: str | Path, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Draw the plots of finished runs side by side and return what to print.

    Args:
        folder: the folder of their folders.
        results: metrics by name.
    """
    path = Path(folder)
    columns = [key for key in SHOWN if any(r.get(key) is not None for r in results.values())]
    with kept("stopped while the plots were drawn; the runs are finished."):
        for name in results:
            draw(path / name)
    table = comparison_table(list(results.items()), columns)
    return f"{table}\n\nfolder of the runs: {printable(str(path))}"


def verdict(*, constrained: dict[str, Any], baseline: dict[str, Any]) -> str:
    """Returns what the constraint removed and what it cost, in one sentence for each.

    One seed has no interval, and the sentence says so. A metric that either arm lacks is said to be
    unknown.
    """
    cost = f"{_time(constrained, baseline)} time per step, {_variance(constrained, baseline)}"
    if any(arm.get(key) is None for arm in (constrained, baseline) for key in MEASURED):
        return f"Cost: {cost} (one seed, no interval)."
    for name, arm in (("none", baseline), (constrained["criterion"], constrained)):
        if health(arm):
            return f"Absorption cannot be read: {name} is invalid, {health(arm)}.\nCost: {cost}."
    return (
        f"Absorption {baseline['absorption_rate']:.3f} -> {constrained['absorption_rate']:.3f}, "
        f"excess {baseline['excess']:.3f} -> {constrained['excess']:.3f}.\n"
        f"Cost: {cost}. One seed has no interval: for paired seeds see `topk-ortho ablate`."
    )


def _time(constrained: dict[str, Any], baseline: dict[str, Any]) -> str:
    ours, theirs = constrained.get("step_ms"), baseline.get("step_ms")
    return f"{100 * (ours / theirs - 1):+.0f} %" if ours is not None and theirs else "unknown"


def _variance(constrained: dict[str, Any], baseline: dict[str, Any]) -> str:
    ours, theirs = (arm.get("explained_variance") for arm in (constrained, baseline))
    if ours is None or theirs is None:
        return "unknown explained variance"
    return f"{ours - theirs:+.4f} explained variance"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
