"""How a setting is refused: in one sentence that says what was given, expected, and what to do."""

from __future__ import annotations


class ConfigError(ValueError):
    """A setting that cannot be used; the message says what was given, expected, and what to do."""


def require(condition: bool, given: str, expected: str, fix: str) -> None:
    """Raise ConfigError from the three parts of its sentence unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{given}, but {expected}; {fix}.")
