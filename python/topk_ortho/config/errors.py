"""Refusals of settings: their error, and the nearest name of those that would do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A setting that cannot be used; the message says what was given, expected, and what to do."""


def nearest(name: str, names: list[str]) -> str:
    """` (perhaps you meant X)` for the closest of `names`, or nothing."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" (perhaps you meant {close[0]})" if close else ""


def one_of(name: str, given: str, names: Iterable[str]) -> str:
    """Returns the one of `names` that was given; hyphens and underscores are the same.

    Raises:
        ConfigError: it is none of them.
    """
    names, canonical = list(names), given.replace("_", "-")
    if canonical not in names:
        raise ConfigError(
            f"{name}={given!r} was given, but one of {', '.join(names)} was expected"
            f"{nearest(canonical, names)}; correct it."
        )
    return canonical
