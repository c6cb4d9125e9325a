"""Output on a terminal: tables, and untrusted strings made harmless."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence


def printable(text: str) -> str:
    """Returns `text` with all that does not print as escapes: control characters, line breaks,
    marks of direction, invisible ones."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def width() -> int | None:
    """Returns the columns of the terminal that stdout is; None where it is none and `COLUMNS` does
    not say."""
    known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return shutil.get_terminal_size().columns if known else None


def aligned(
    rows: Sequence[Sequence[str]],
    *,
    sides: str = "<>",
    rule: bool = True,
    gap: int = 2,
    indent: int = 0,
    within: int | None = None,
) -> list[str]:
    """Returns the lines of a table whose columns are as wide as they need; none without rows.

    A table that is too wide is cut into several, one below the other, each with the first column.

    Args:
        rows: all of the same length; with a rule, the first one names the columns.
        sides: `<` or `>` for each column, flush left or right; the last one holds for all that
            follow.
        rule: whether a line is drawn below the first row.
        gap: blanks between columns.
        indent: blanks before each line.
        within: columns of the terminal; None for any width.
    """
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = sides.ljust(len(widths), sides[-1])
    parts = _parts(widths, gap=gap, room=None if within is None else within - indent)
    if len(parts) > 1:
        out: list[str] = []
        for part in parts:
            cells = [[row[column] for column in part] for row in rows]
            chosen = "".join(sides[column] for column in part)
            out += ["", *aligned(cells, sides=chosen, rule=rule, gap=gap, indent=indent)]
        return out[1:]
    lines = [
        " " * indent
        + (" " * gap)
        .join(
            cell.ljust(width) if side == "<" else cell.rjust(width)
            for cell, width, side in zip(row, widths, sides, strict=False)
        )
        .rstrip()
        for row in rows
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]] if rule else lines


def _parts(widths: Sequence[int], *, gap: int, room: int | None) -> list[list[int]]:
    """Returns the columns of each of the tables that a table is cut into, the first one in all."""
    if room is None or len(widths) < 2:
        return [list(range(len(widths)))]
    first, *others = range(len(widths))
    parts, used = [[first]], widths[first]
    for column in others:
        if used + gap + widths[column] > room and len(parts[-1]) > 1:
            parts.append([first])
            used = widths[first]
        parts[-1].append(column)
        used += gap + widths[column]
    return parts
