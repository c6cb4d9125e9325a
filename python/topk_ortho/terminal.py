"""Strings of strangers on a terminal: what would act on it is spelled out."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` with all that does not print (control characters, line breaks, marks of direction,
    invisible ones) as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
