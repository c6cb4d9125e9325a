"""Options and values that had another name: old names are answered with the new one.

Users have to write the new name. A run's own file is read with either, and its hash is
taken over the old ones, so that a run that was stored earlier is still the same run.
"""

from __future__ import annotations

from typing import Any

RENAMED: dict[str, str] = {
    "pairs.of": "pairs.fraction-of",
    "pairs.account": "pairs.track-memory",
    "penalty.n": "penalty.normalize-by",
    "sae.products": "sae.bf16-prefilter",
}
"""Old option: new option."""

RENAMED_VALUES: dict[str, dict[Any, Any]] = {
    "pairs.criterion": {"random-matched": "rate-matched-random"},
    "sae.bf16-prefilter": {"float32": False, "bfloat16": True},
}
"""New name of an option: its old values, and what they are now."""


def renamed_option(option: str) -> str:
    """Returns the sentence that names the new option, or nothing where it was not renamed."""
    new = RENAMED.get(option.replace("_", "-"))
    return f"{option} was given, but it is called {new} now; write {new}." if new else ""


def renamed_value(option: str, value: Any) -> Any:
    """Returns the new name of an option's old value, or None where it was not renamed."""
    old = value.replace("_", "-") if isinstance(value, str) else value
    plain = isinstance(old, str | bool | int | float)
    return RENAMED_VALUES.get(option.replace("_", "-"), {}).get(old) if plain else None


def with_new_names(table: dict[str, Any]) -> dict[str, Any]:
    """Returns nested tables, as a run stored them, with today's names and values."""
    return _translated(table, RENAMED, RENAMED_VALUES)


def with_old_names(table: dict[str, Any]) -> dict[str, Any]:
    """Returns nested tables with the names and values of before, over which a run is hashed."""
    old_name = {new: old for old, new in RENAMED.items()}
    old_values = {
        old_name.get(option, option): {new: old for old, new in values.items()}
        for option, values in RENAMED_VALUES.items()
    }
    return _translated(table, old_name, old_values)


def _translated(
    table: dict[str, Any],
    names: dict[str, str],
    values: dict[str, dict[Any, Any]],
    prefix: str = "",
) -> dict[str, Any]:
    out = {}
    for key, value in table.items():
        given = prefix + key.replace("_", "-")
        if isinstance(value, dict):
            out[key] = _translated(value, names, values, f"{given}.")
            continue
        option = names.get(given, given)
        if option != given:
            key = option.removeprefix(prefix).replace("-", "_")
        plain = isinstance(value, str | bool | int | float)
        out[key] = values.get(option, {}).get(value, value) if plain else value
    return out
