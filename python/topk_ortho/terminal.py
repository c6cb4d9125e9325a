"""Output on a terminal: tables, and untrusted strings made harmless."""

from __future__ import annotations

from collections.abc import Sequence


def printable(text: str) -> str:
    """Returns `text` with all that does not print as escapes: control characters, line breaks,
    marks of direction, invisible ones."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def aligned(
    rows: Sequence[Sequence[str]],
    *,
    sides: str = "<>",
    rule: bool = True,
    gap: int = 2,
    indent: int = 0,
) -> list[str]:
    """Returns the lines of a table whose columns are as wide as they need; none without rows.

    Args:
        rows: all of the same length; with a rule, the first one names the columns.
        sides: `<` or `>` for each column, flush left or right; the last one holds for all that
            follow.
        rule: whether a line is drawn below the first row.
        gap: blanks between columns.
        indent: blanks before each line.
    """
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = sides.ljust(len(widths), sides[-1])
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
