"""Arms beside each other as plain text, absorption only beside what makes it believable.

An SAE that hardly trained scores near 0 on absorption: nothing fires, so nothing is absorbed. The
health gate therefore marks such figures, and the columns it rests on are always shown with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MIN_EXPLAINED_VARIANCE = 0.5
MIN_CE_SCORE = 0.9

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
"""What is shown unless asked otherwise, where present."""

BESIDE = ("explained_variance", "l0", "dead_features")
"""Absorption is never shown without these."""

_ABSORPTION = {"excess", "base_miss", "partial", "decoder_leak", "encoder_hole"}
_DECIMALS = {"l0": 2, "l1": 2, "seconds": 1, "tokens_per_second": 0}


def health(result: Mapping[str, Any]) -> str | None:
    """Why absorption figures of this result mean nothing, None where they may be read.

    Args:
        result: flat figures; `explained_variance` is required, `ce_score` counts where measured.
    """
    reasons = []
    variance, ce_score = result.get("explained_variance"), result.get("ce_score")
    if variance is None:
        reasons.append("explained variance was not measured")
    elif not variance >= MIN_EXPLAINED_VARIANCE:
        reasons.append(f"explained variance {variance:.3f} is below {MIN_EXPLAINED_VARIANCE}")
    if ce_score is not None and not ce_score >= MIN_CE_SCORE:
        reasons.append(f"CE score {ce_score:.3f} is below {MIN_CE_SCORE}")
    return " and ".join(reasons) or None


def is_absorption(column: str) -> bool:
    """Whether a figure needs the health gate."""
    return column.startswith("absorption") or column in _ABSORPTION


def comparison_table(
    rows: Sequence[tuple[str, Mapping[str, Any]]], columns: Sequence[str] | None = None
) -> str:
    """An aligned table for the terminal, one line for each arm, without a newline at its end.

    Args:
        rows: arm names with their flat figures; None, or a missing key, is shown as "-".
        columns: figures to show in this order; those of `COLUMNS` that some arm has when None.
            `BESIDE` is added wherever an absorption figure is shown.

    Absorption figures of an arm that fails `health` carry a `*`, explained below the table.
    """
    chosen = list(
        columns
        if columns is not None
        else (name for name in COLUMNS if any(name in figures for _, figures in rows))
    )
    if any(map(is_absorption, chosen)):
        chosen += [name for name in BESIDE if name not in chosen]
    invalid = {
        arm: reason
        for arm, figures in rows
        if any(is_absorption(name) and figures.get(name) is not None for name in chosen)
        and (reason := health(figures))
    }
    header = ["arm", *chosen]
    body = [
        [arm, *(_cell(name, figures.get(name), marked=arm in invalid) for name in chosen)]
        for arm, figures in rows
    ]
    notes = [f"* {arm}: invalid, {reason}" for arm, reason in invalid.items()]
    return "\n".join([*_align(header, body), *notes])


def _cell(name: str, value: Any, *, marked: bool) -> str:
    mark = "*" if marked and value is not None and is_absorption(name) else " "
    if value is None:
        text = "-"
    elif isinstance(value, bool | int | str) or not math.isfinite(value):
        text = str(value)
    elif name in _DECIMALS:
        text = f"{value:.{_DECIMALS[name]}f}"
    elif abs(value) >= 1000 or (value != 0 and abs(value) < 0.001 and not is_absorption(name)):
        text = f"{value:.3g}"
    else:
        text = f"{value:.3f}"
    return text + mark


def _align(header: list[str], body: list[list[str]]) -> list[str]:
    """Names to the left, figures to the right; a blank after each figure is room for its mark."""
    titles = [header[0], *(f"{name} " for name in header[1:])]
    widths = [max(map(len, column)) for column in zip(titles, *body, strict=True)]
    lines = []
    for first, *figures in [titles, *body]:
        cells = [cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=True)]
        lines.append(" ".join([first.ljust(widths[0] + 1), *cells]).rstrip())
    rule = "-" * max(map(len, lines))
    return [lines[0], rule, *lines[1:]]
