"""Options and values that had another name: old names are answered with the new one."""

from __future__ import annotations

from typing import Any

RENAMED: dict[str, str] = {}
"""Old option: new option."""

RENAMED_VALUES: dict[str, dict[Any, Any]] = {}
"""New name of an option: its old values, and what they are now."""


def renamed_option(option: str) -> str:
    """Returns the sentence that names the new option, or nothing where it was not renamed."""
    new = RENAMED.get(option.replace("_", "-"))
    return f"{option} was given, but it is called {new} now; write {new}." if new else ""


def renamed_value(option: str, value: Any) -> Any:
    """Returns the new name of an option's old value, or None where it was not renamed."""
    old = value.replace("_", "-") if isinstance(value, str) else value
    return RENAMED_VALUES.get(option.replace("_", "-"), {}).get(old)
