"""Comparisons as Markdown: the same figures as on the page, for a document in a repository."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from topk_ortho import statistics
from topk_ortho.report.arms import Arm, Comparison
from topk_ortho.report.compare import COSTS, Row, compare, readable
from topk_ortho.report.typeset import (
    UNAVAILABLE,
    interval,
    listed,
    number,
    percent,
    plain,
    signed,
    signed_percent,
)
from topk_ortho.report.words import DEFAULT_ARMS, findings
from topk_ortho.statistics.claims import Better

_MEANS = {
    "absorption_rate": ("absorption", 3),
    "excess": ("excess", 3),
    "f1_parent": ("parent F1", 3),
    "f1_child": ("child F1", 3),
    "mcc": ("MCC", 3),
    "explained_variance": ("EV", 3),
    "ce_score": ("CE score", 4),
    "kl_score": ("KL score", 4),
    "l0": ("L0", 2),
    "dead_features": ("dead", 3),
    "step_ms": ("step, ms", 1),
}
_BETTER: dict[str, Better] = {
    "excess": "lower",
    "mcc": "higher",
    "f1_child": "higher",
    "explained_variance": "higher",
}
_SHORT = {"excess": "excess", "mcc": "MCC", "f1_child": "child F1", "explained_variance": "EV"}


def comparison_markdown(comparison: Comparison) -> str:
    """What was found, every arm's means, its differences to `none`, and the default arm's to
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
            *(number(_mean(arm, key), _MEANS[key][1]) for key in keys),
        ]
        for arm in arms
    ]
    seeds = sorted({run.seed for run in comparison.runs if run.seed is not None})
    head = f"Means over seeds {', '.join(map(str, seeds))}:"
    return f"{head}\n\n{table(['arm', 'weight', *(_MEANS[key][0] for key in keys)], lines)}"


def against_none(rows: Sequence[Row]) -> str:
    """Differences of every arm to `none`, paired by seed."""
    lines = []
    for row in rows:
        if row.control is None or not any([row.excess, *row.costs.values()]):
            continue
        kept = {"holds": ", kept"}.get(row.variance_kept, "")
        lines.append([
            plain(row.arm.name),
            _difference(row.excess),
            percent(row.relative.mean) if row.relative else UNAVAILABLE,
            f"invalid: {row.invalid}" if row.invalid else row.verdict,
            *(_difference(row.costs[key]) + (kept if key == "explained_variance" else "")
              for key in COSTS),
            f"{signed_percent(row.time.mean)}" if row.time else UNAVAILABLE,
        ])  # fmt: skip
    if not lines:
        return ""
    header = [
        "against none",
        "excess",
        "removed",
        "excess is",
        "MCC",
        "child F1",
        "EV",
        "step time",
    ]
    return table(header, lines)


def against_others(comparison: Comparison) -> str:
    """The default arm minus each other one, paired by seed, corrected over the table's arms."""
    own = next((arm for arm in comparison.arms if arm.name in DEFAULT_ARMS), None)
    others = [arm for arm in comparison.arms if arm is not own and not arm.plain and arm.finished]
    if own is None or not own.finished or not others:
        return ""
    found = {
        key: {arm.name: statistics.paired(readable(own, key), readable(arm, key)) for arm in others}
        for key in _BETTER
    }
    adjusted = {
        key: statistics.holm({name: d.p if d else None for name, d in differences.items()})
        for key, differences in found.items()
    }
    lines = [
        [plain(arm.name), *(_against(found, adjusted, key, arm.name) for key in _BETTER)]
        for arm in others
    ]
    return table([f"{own.name} minus", *(_SHORT[key] for key in _BETTER)], lines)


def _against(found: dict[str, Any], adjusted: dict[str, Any], key: str, name: str) -> str:
    difference = found[key][name]
    said = statistics.verdict(difference, better=_BETTER[key], adjusted_p=adjusted[key][name])
    word = {"better": " (better)", "worse": " (worse)"}.get(said, "")
    return f"{_difference(difference)}{word}"


def tried(plan: dict[str, Any]) -> str:
    """The coefficients that tuning tried: excess and explained variance of each."""
    tuning = plan.get("tuning")
    chosen = tuning.get("chosen") if isinstance(tuning, dict) else None
    if not isinstance(tuning, dict) or not chosen:
        return ""
    lines = []
    for entry in chosen:
        cells = []
        for one in entry["tried"]:
            text = f"{one['coefficient']:g}: {number(one['excess'])} / " \
                   f"{number(one['explained_variance'])}"  # fmt: skip
            cells.append(f"**{text}**" if one["coefficient"] == entry["coefficient"] else text)
        lines.append([plain(entry["label"]), *cells])
    columns = max(map(len, lines)) - 1
    lines = [line + [""] * (columns + 1 - len(line)) for line in lines]
    if not columns:
        return "On the tuning seeds there is no excess to remove: every arm keeps its own weight."
    none = number(chosen[0].get("explained_variance_none"))
    seeds = listed([str(seed) for seed in tuning["seeds"]])
    head = (
        f"Weights tried on seeds {seeds}, each with its excess and explained variance (none: {none}"
        "), the one taken in bold:"
    )
    return f"{head}\n\n{table(['arm', *(f'try {n}' for n in range(1, columns + 1))], lines)}"


def problems(comparison: Comparison) -> str:
    """Runs without figures, with their reasons, and what was left out."""
    lines = [f"- {plain(arm.name)}, seed {run.seed}: {plain(run.problem)}"
             for arm in comparison.arms for run in arm.runs if run.problem]  # fmt: skip
    return "\n".join([*lines, *(f"- {note}" for note in comparison.notes)])


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
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


def _difference(difference: statistics.Difference | None) -> str:
    if difference is None:
        return UNAVAILABLE
    return f"{signed(difference.mean)} {interval(difference)}"
