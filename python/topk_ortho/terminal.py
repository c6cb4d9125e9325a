"""What is printed on a terminal: columns, and strings of strangers that must not act on it."""

from __future__ import annotations

from collections.abc import Sequence


def printable(text: str) -> str:
    """`text` with all that does not print (control characters, line breaks, marks of direction,
    invisible ones) as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def aligned(rows: Sequence[Sequence[str]], *, left: int = 0) -> list[str]:
    """Lines of a table, a rule below the first one: columns as wide as they need.

    Args:
        rows: all of the same length; the first one names the columns.
        left: the column that is flush left, -1 for the last; the others are flush right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left %= len(widths)
    lines = [
        "  ".join(
            cell.ljust(width) if n == left else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
