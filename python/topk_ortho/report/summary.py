"""The end of a run, for the terminal: plots drawn, both arms in one table, and what it cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from topk_ortho.metrics.health import health
from topk_ortho.report.plots import draw
from topk_ortho.report.table import COLUMNS, comparison_table
from topk_ortho.terminal import printable

MEASURED = ("absorption_rate", "excess")
SHOWN = (*COLUMNS, "ce_score", "kl_score", "c_dec")


def finish(folder: str | Path) -> str:
    """Draw the plots of a finished run and return what to print."""
    path = Path(folder)
    result = _read(path / "result.json")
    baseline_path = path / "baseline" / "result.json"
    rows = [(result["criterion"], result)]
    if baseline_path.exists():
        rows.insert(0, ("none", _read(baseline_path)))
    columns = [name for name in SHOWN if any(figures.get(name) is not None for _, figures in rows)]
    draw(path)
    lines = [comparison_table(rows, columns)]
    if len(rows) == 2:
        lines.append(verdict(constrained=result, baseline=rows[0][1]))
    lines.append(f"run folder: {printable(str(path))}")
    return "\n\n".join(lines)


def verdict(*, constrained: dict[str, Any], baseline: dict[str, Any]) -> str:
    """What the constraint removed and what it cost, in one sentence for each.

    One seed has no interval, and the sentence says so.
    """
    time = 100 * (constrained["step_ms"] / baseline["step_ms"] - 1)
    variance = constrained["explained_variance"] - baseline["explained_variance"]
    cost = f"{time:+.0f} % time per step, {variance:+.4f} explained variance"
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


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
