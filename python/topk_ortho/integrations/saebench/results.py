"""SAEBench's own JSON files: what is read from them, and how it is shown.

Nothing is computed here. Metrics keep SAEBench's names; those that it is known to get wrong or that
its users are advised against carry a note.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topk_ortho.metrics.health import MIN_CE_SCORE, MIN_EXPLAINED_VARIANCE, health
from topk_ortho.report.typeset import metric
from topk_ortho.terminal import aligned

TYPE_IDS = {"absorption": "absorption_first_letter"}
"""`eval_type_id` where it is not the eval's name."""

NOT_SHOWN = {"explained_variance"}
NOTES = {
    "absorption": "num_letters is how many letters a probe finds, and num_probe_true_positives how "
    "many words with them it finds.",
    "core": "explained_variance is left out: SAEBench takes the mean of x^2 for the square of the "
    "mean of x in it, so explained_variance_legacy stands here. mse is divided by the number of "
    "tokens twice.",
    "scr": "a 2026 audit of SAEBench advises against relying on SCR",
    "tpp": "a 2026 audit of SAEBench advises against relying on TPP",
}
WORDS = {
    "unreachable": "not run, what it needs cannot be reached",
    "unmeasurable": "not measurable",
    "failed": "failed",
}


@dataclass(frozen=True)
class Outcome:
    """The outcome of one eval.

    Attributes:
        status: `done`, `unreachable`, `unmeasurable` or `failed`.
        reason: in words, empty when done.
        log: what SAEBench printed.
        file: its JSON.
        figures: its metrics, flat, by its names.
    """

    status: str
    reason: str
    log: Path
    file: Path | None = None
    figures: Mapping[str, float | int | None] = field(default_factory=dict)


def read_result(name: str, path: Path, log: Path) -> Outcome:
    """Returns the metrics of `eval_result_metrics`, all groups in one; a failure where the file is
    no result of that eval."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["eval_type_id"] != TYPE_IDS.get(name, name):
            return Outcome("failed", f"{path} is a result of {result['eval_type_id']}", log)
        groups = result["eval_result_metrics"].values()
        figures = {key: value for group in groups for key, value in group.items()}
        if name == "absorption":
            letters = result["eval_result_details"]
            words = sum(letter["num_probe_true_positives"] for letter in letters)
            figures |= {"num_letters": len(letters), "num_probe_true_positives": words}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{path} is not in SAEBench's schema ({type(error).__name__}: {error})"
        return Outcome("failed", reason, log)
    return Outcome("done", "", log, path, figures)


def gate(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Returns the SAE's health by core's metrics, and the absorption metrics that mean nothing."""
    core = outcomes["core"].figures if "core" in outcomes else {}
    reason = health(
        {
            "explained_variance": core.get("explained_variance_legacy"),
            "ce_score": core.get("ce_loss_score"),
        }
    )
    absorption = outcomes["absorption"].figures if "absorption" in outcomes else {}
    return {
        "healthy": reason is None,
        "reason": reason,
        "limits": {
            "explained_variance_legacy": MIN_EXPLAINED_VARIANCE,
            "ce_loss_score": MIN_CE_SCORE,
        },
        "invalid": sorted(absorption) if reason else [],
    }


def as_json(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Returns every eval with its metrics, or why it has none."""
    return {
        "health": gate(outcomes),
        "evals": {
            name: {
                "status": outcome.status,
                "reason": outcome.reason,
                "note": NOTES.get(name),
                "file": None if outcome.file is None else str(outcome.file),
                "log": str(outcome.log),
                "figures": dict(outcome.figures),
            }
            for name, outcome in outcomes.items()
        },
    }


def as_text(outcomes: Mapping[str, Outcome]) -> str:
    """Eval by eval, and the health."""
    invalid = gate(outcomes)["invalid"]
    parts = [_one(name, outcome, invalid) for name, outcome in outcomes.items()]
    return "\n\n".join([*parts, _health(outcomes)])


def _one(name: str, outcome: Outcome, invalid: list[str]) -> str:
    if outcome.status != "done":
        lines = [f"{name}: {WORDS[outcome.status]}: {outcome.reason} (log: {outcome.log})"]
    else:
        rows = [
            (key, f"{metric(value, '.4g')}{'*' if key in invalid else ' '}")
            for key, value in outcome.figures.items()
            if value is not None and key not in NOT_SHOWN
        ]
        lines = [f"{name} ({outcome.file})", *aligned(rows, rule=False, indent=2)]
    if name in NOTES:
        lines.append(f"  note: {NOTES[name]}.".replace("..", "."))
    return "\n".join(lines)


def _health(outcomes: Mapping[str, Outcome]) -> str:
    found = gate(outcomes)
    if found["healthy"]:
        return (
            f"health: good (explained_variance_legacy at least {MIN_EXPLAINED_VARIANCE}, "
            f"ce_loss_score at least {MIN_CE_SCORE})."
        )
    measured = "core" in outcomes and outcomes["core"].status == "done"
    add = "" if measured else " (run core as well)"
    return f"health: INVALID, {found['reason']}{add}; an absorption metric (*) means nothing."
