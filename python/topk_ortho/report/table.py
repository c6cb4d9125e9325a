"""A table of arms as plain text; absorption is shown only beside its health metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from topk_ortho.metrics.health import BESIDE, health, is_absorption
from topk_ortho.report.typeset import DASH
from topk_ortho.terminal import aligned, printable, width

COLUMNS = (
    "absorption_rate",
    "excess",
    "mcc",
    "f1_parent",
    "f1_child",
    "explained_variance",
    "l0",
    "dead_features",
    "seconds",
)
"""Metrics that are shown by default, where present."""

_DECIMALS = {"l0": 2, "l1": 2, "seconds": 1, "tokens_per_second": 0}


def comparison_table(
    rows: Sequence[tuple[str, Mapping[str, Any]]], columns: Sequence[str] | None = None
) -> str:
    """Returns an aligned table for the terminal, one line for each arm, without a last newline.

    Args:
        rows: arm names with their metrics; what is unavailable (None, a missing key, a number that
            is not finite) is shown as a dash.
        columns: metrics to show in this order; those of `COLUMNS` that some arm has when None.
            `BESIDE` is added wherever an absorption metric is shown.

    Absorption metrics of an arm that fails `health` carry a `*`, explained below the table.
    """
    chosen = list(
        columns
        if columns is not None
        else (name for name in COLUMNS if any(name in metrics for _, metrics in rows))
    )
    if any(map(is_absorption, chosen)):
        chosen += [name for name in BESIDE if name not in chosen]
    invalid = {
        arm: reason
        for arm, metrics in rows
        if any(is_absorption(name) and metrics.get(name) is not None for name in chosen)
        and (reason := health(metrics))
    }
    # A blank after each metric is where its mark stands.
    header = ["arm ", *(f"{name} " for name in chosen)]
    body = [
        [f"{arm} ", *(_cell(name, metrics.get(name), marked=arm in invalid) for name in chosen)]
        for arm, metrics in rows
    ]
    notes = [f"* {arm}: invalid, {reason}" for arm, reason in invalid.items()]
    return "\n".join([*aligned([header, *body], gap=1, within=width()), *notes])


def _cell(name: str, value: Any, *, marked: bool) -> str:
    text = _shown(name, value)
    return text + ("*" if marked and text != DASH and is_absorption(name) else " ")


def _shown(name: str, value: Any) -> str:
    """A column may hold words and whole numbers beside metrics."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    if not isinstance(value, float):
        return printable(str(value))
    if name in _DECIMALS:
        return f"{value:.{_DECIMALS[name]}f}"
    if abs(value) >= 1000 or (value != 0 and abs(value) < 0.001 and not is_absorption(name)):
        return f"{value:.3g}"
    return f"{value:.3f}"
