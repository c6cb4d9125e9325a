"""Refusals of settings: their error, and the nearest name of those that would do."""

from __future__ import annotations

import difflib


class ConfigError(ValueError):
    """A setting that cannot be used; the message says what was given, expected, and what to do."""


def nearest(name: str, names: list[str]) -> str:
    """` (perhaps you meant X)` for the closest of `names`, or nothing."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" (perhaps you meant {close[0]})" if close else ""
