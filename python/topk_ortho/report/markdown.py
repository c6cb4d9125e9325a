"""Comparisons as Markdown: the same metrics as on the page, for a document in a repository."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from topk_ortho import statistics
from topk_ortho.report.arms import Arm, Comparison
from topk_ortho.report.compare import COSTS, Row, compare, readable
from topk_ortho.report.findings import findings
from topk_ortho.report.reading import objects
from topk_ortho.report.typeset import (
    UNAVAILABLE,
    listed,
    metric,
    number,
    percent,
    plain,
    signed_percent,
    with_interval,
)
from topk_ortho.report.words import DEFAULT_ARMS, LABELS, NONE

_MEANS = ("absorption_rate", "excess", "f1_parent", "f1_child", "mcc", "explained_variance",
          "ce_score", "kl_score", "l0", "dead_features", "step_ms")  # fmt: skip
_COMPARED = ("excess", *COSTS)


def comparison_markdown(comparison: Comparison) -> str:
    """Returns the findings, every arm's means, its differences to `none`, and the default arm's to
    every other; an ablation that was tuned also shows what was tried."""
    rows = compare(comparison)
    said = "\n".join(f"- {sentence}" for sentence in findings(comparison, rows))
    blocks = [said, means(comparison), against_none(rows), against_others(comparison),
              tried(comparison.plan), problems(comparison)]  # fmt: skip
    return "\n\n".join(block for block in blocks if block)


def means(comparison: Comparison) -> str:
    """A line for each arm: coefficient, and means over the seeds."""
    arms = [arm for arm in comparison.arms if arm.finished]
    if not arms:
        return "No run has finished."
    keys = [key for key in _MEANS if any(_mean(arm, key) is not None for arm in arms)]
    lines = [
        [
            plain(arm.name),
            _coefficient(arm),
            *(number(_mean(arm, key), LABELS[key].decimals or 0) for key in keys),
        ]
        for arm in arms
    ]
    seeds = sorted({run.seed for run in comparison.runs if run.seed is not None})
    head = f"Means over seeds {', '.join(map(str, seeds))}:"
    return f"{head}\n\n{table(['arm', 'coefficient', *(LABELS[key].short for key in keys)], lines)}"


def against_none(rows: Sequence[Row]) -> str:
    """Differences of every arm to `none`, paired by seed."""
    lines = []
    for row in rows:
        if row.control is None or not any([row.excess, *row.costs.values()]):
            continue
        kept = {"holds": ", kept"}.get(row.variance_kept, "")
        lines.append([
            plain(row.arm.name),
            with_interval(row.excess),
            percent(row.relative.mean) if row.relative else UNAVAILABLE,
            f"invalid: {row.invalid}" if row.invalid else row.verdict,
            *(with_interval(row.costs[key]) + (kept if key == "explained_variance" else "")
              for key in COSTS),
            signed_percent(row.time.mean) if row.time else UNAVAILABLE,
        ])  # fmt: skip
    if not lines:
        return ""
    costs = [LABELS[key].short for key in COSTS]
    header = [f"against {NONE}", "excess", "removed", "excess is", *costs, "step time"]
    return table(header, lines)


def against_others(comparison: Comparison) -> str:
    """The default arm minus each other one, paired by seed, corrected over the table's arms."""
    own = next((arm for arm in comparison.arms if arm.name in DEFAULT_ARMS), None)
    others = [arm for arm in comparison.arms if arm is not own and not arm.plain and arm.finished]
    if own is None or not own.finished or not others:
        return ""
    found = {
        key: {arm.name: statistics.paired(readable(own, key), readable(arm, key)) for arm in others}
        for key in _COMPARED
    }
    adjusted = {
        key: statistics.holm({name: d.p if d else None for name, d in differences.items()})
        for key, differences in found.items()
    }
    lines = [
        [plain(arm.name), *(_against(found, adjusted, key, arm.name) for key in _COMPARED)]
        for arm in others
    ]
    return table([f"{own.name} minus", *(LABELS[key].short for key in _COMPARED)], lines)


def _against(found: dict[str, Any], adjusted: dict[str, Any], key: str, name: str) -> str:
    difference, better = found[key][name], LABELS[key].better
    assert better is not None, "what is compared has a better direction"
    said = statistics.verdict(difference, better=better, adjusted_p=adjusted[key][name])
    word = {"better": " (better)", "worse": " (worse)"}.get(said, "")
    return f"{with_interval(difference)}{word}"


def tried(plan: dict[str, Any]) -> str:
    """The coefficients that tuning tried: excess and explained variance of each."""
    tuning = plan.get("tuning")
    chosen = objects(tuning.get("chosen")) if isinstance(tuning, dict) else []
    if not isinstance(tuning, dict) or not chosen:
        return ""
    lines = []
    for entry in chosen:
        tries = [_try(one, taken=entry.get("coefficient")) for one in objects(entry.get("tried"))]
        lines.append([plain(entry.get("label")), *tries])
    columns = max(map(len, lines)) - 1
    lines = [line + [""] * (columns + 1 - len(line)) for line in lines]
    if not columns:
        return (
            "On the tuning seeds there is no excess to remove: every arm keeps its own coefficient."
        )
    none = number(chosen[0].get("explained_variance_none"))
    seeds = tuning.get("seeds")
    shown = listed([str(seed) for seed in seeds]) if isinstance(seeds, list) else UNAVAILABLE
    head = (
        f"Coefficients tried on seeds {shown}, each with its excess and explained variance (none: "
        f"{none}), the one taken in bold:"
    )
    return f"{head}\n\n{table(['arm', *(f'try {n}' for n in range(1, columns + 1))], lines)}"


def _try(one: dict[str, Any], *, taken: Any) -> str:
    coefficient = one.get("coefficient")
    text = f"{metric(coefficient, 'g')}: {number(one.get('excess'))} / " \
           f"{number(one.get('explained_variance'))}"  # fmt: skip
    return f"**{text}**" if coefficient == taken and taken is not None else text


def problems(comparison: Comparison) -> str:
    """Runs without a result, with their reasons, and what was left out."""
    lines = [f"- {plain(arm.name)}, seed {run.seed}: {plain(run.problem)}"
             for arm in comparison.arms for run in arm.runs if run.problem]  # fmt: skip
    return "\n".join([*lines, *(f"- {note}" for note in comparison.notes)])


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table; vertical bars in cells are escaped."""
    rows = [list(header), ["---"] * len(header), *lines]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows
    )


def _mean(arm: Arm, key: str) -> float | None:
    found = statistics.mean(readable(arm, key))
    return None if found is None else found.mean


def _coefficient(arm: Arm) -> str:
    value = arm.finished[0].value("coefficient")
    return f"{value:g}" if value else ""
