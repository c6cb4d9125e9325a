"""Settings as Python makes them: their values are checked, and take their types, at once.

What a file or a command line says is checked as a whole, in that place's own words (`rules.py`);
`unchecked` makes such settings.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any, TypeVar

from topk_ortho.config.errors import ConfigError, as_python
from topk_ortho.config.option import Range
from topk_ortho.config.values import UnfitError, field_types, typed

S = TypeVar("S", bound="Settings")


class Settings:
    """A frozen dataclass of options, each of which is checked when it is made from Python."""

    def __post_init__(self) -> None:
        kinds = field_types(typing.cast(Any, type(self)))
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if not _is_default(f, value):
                object.__setattr__(self, f.name, self._checked(f, kinds[f.name], value))
        self.complete()

    def complete(self) -> None:
        """Fill in what other settings decide."""

    def __repr__(self) -> str:
        """Returns the settings that are not at their defaults, as Python makes them."""
        parts = []
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if not _is_default(f, value):
                parts.append(f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def _checked(self, f: dataclasses.Field[Any], kind: Any, value: Any) -> Any:
        given = f"{type(self).__name__}({f.name}={value!r}) was given"
        if hasattr(value, "tolist"):  # of numpy or torch
            value = value.tolist()
        if dataclasses.is_dataclass(kind):
            table = typing.cast(type, kind)
            if not isinstance(value, table):
                raise ConfigError(f"{given}, but {table.__name__}(...) was expected; make one.")
            return value
        if value is None and type(None) in typing.get_args(kind):
            return None
        try:
            value = typed(kind, value)
        except UnfitError as error:
            raise ConfigError(f"{given}, but {error} was expected; correct it.") from None
        within: Range | None = f.metadata.get("within")
        if within is not None and not all(
            within.least <= number <= within.most
            for number in (value if isinstance(value, tuple) else (value,))
        ):
            fix = within.fix.replace("see --help", f"see help({type(self).__name__})")
            raise ConfigError(f"{given}, but {within.words} was expected; {as_python(fix)}.")
        return value


def unchecked(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """Returns settings of a dataclass without checking them.

    Args:
        cls: a dataclass; one that is no `Settings` is made as usual.
        values: by field; the others have their defaults.
    """
    if not issubclass(cls, Settings):
        return cls(**values)
    made = object.__new__(cls)
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        object.__setattr__(made, f.name, values[f.name] if f.name in values else _default(f))
    made.complete()
    return made


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()


def _is_default(f: dataclasses.Field[Any], value: Any) -> bool:
    default = _default(f)
    return type(value) is type(default) and bool(value == default)
