"""A repair for the terminal: before and after in one table, and what changed in one sentence."""

from __future__ import annotations

from topk_ortho.inspect.repair.repair import Repair
from topk_ortho.metrics.health import health
from topk_ortho.report.table import comparison_table
from topk_ortho.report.typeset import metric

COLUMNS = (
    "absorption_rate",
    "excess",
    "mcc",
    "f1_parent",
    "f1_child",
    "suppressed_pairs",
    "explained_variance",
    "ce_score",
    "kl_score",
    "l0",
    "dead_features",
    "c_dec",
)

WORTH_NAMING = 0.01
"""Share of the features that have to have died to be named in the verdict."""


def as_text(done: Repair) -> str:
    """The answer without a newline at its end."""
    rows = [("before", done.before), ("after", done.after)]
    shown = [name for name in COLUMNS if any(f.get(name) is not None for _, f in rows)]
    lines = [comparison_table(rows, shown), "", _verdict(done)]
    return "\n".join([*lines, f"repaired SAE ({done.layout}): {done.repaired}"])


def _verdict(done: Repair) -> str:
    change = done.difference()
    cost = f"{done.steps} steps, {metric(change.get('explained_variance'), '+.4f')} " \
           "explained variance"  # fmt: skip
    if change.get("dead_features", 0) >= WORTH_NAMING:
        dead = [metric(arm["dead_features"], ".1%") for arm in (done.before, done.after)]
        cost += f", dead features {dead[0]} -> {dead[1]}"
    if "ce_score" in change:
        cost += f", {metric(change['ce_score'], '+.4f')} CE score"
    measured = [
        f"{name} {metric(done.before[key], form)} -> {metric(done.after[key], form)}"
        for key, name, form in (
            ("absorption_rate", "absorption", ".3f"),
            ("excess", "excess", ".3f"),
        )
        if key in change
    ]
    for name, arm in (("before", done.before), ("after", done.after)):
        if health(arm):
            return f"The SAE {name} is not healthy: {health(arm)}. {cost}."
    text = ", ".join(measured) or "no features are known in this data"
    return f"{text[0].upper()}{text[1:]}; {cost}."
