"""The options of a command, as its dataclass declares them: names, types, defaults."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any

from topk_ortho.config.errors import nearest
from topk_ortho.config.values import choices, field_types

NAMES = {int: "a whole number", float: "a number", Path: "a path", str: "a value"}


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: on the command line, without the hyphens in front, such as `pairs.per-feature`.
        kind: its type, without the None that stands for "not given".
        optional: whether `None` is among its values.
        default: MISSING where it has to be given.
        positional: given by its place.
        owner: the dataclass that declares it.
    """

    name: str
    kind: Any
    optional: bool
    default: Any
    positional: bool
    owner: type

    @property
    def choices(self) -> tuple[str, ...]:
        """Returns its values, where they are listed."""
        return choices(self.kind) or choices(self.item)

    @property
    def shown(self) -> str:
        """Returns its name for messages."""
        return self.name.upper() if self.positional else f"--{self.name}"

    @property
    def flag(self) -> bool:
        """Returns whether it takes no value."""
        return self.kind is bool

    @property
    def many(self) -> bool:
        """Returns whether it takes any number of values."""
        return typing.get_origin(self.kind) is tuple and Ellipsis in typing.get_args(self.kind)

    @property
    def count(self) -> int:
        """Returns how many values it takes, where that number is fixed."""
        return len(typing.get_args(self.kind)) if typing.get_origin(self.kind) is tuple else 1

    @property
    def item(self) -> Any:
        """Returns the type of one value."""
        listed = typing.get_origin(self.kind) in (tuple, Annotated)
        return typing.get_args(self.kind)[0] if listed else self.kind

    @property
    def expected(self) -> str:
        """Returns what a value has to be, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        return NAMES.get(self.item, "a value")

    def value(self, word: str) -> Any:
        """Returns the value that a word stands for.

        Raises:
            ValueError: it stands for none.
        """
        if self.optional and word == "None":
            return None
        if self.choices:
            canonical = word.replace("_", "-")
            if canonical not in self.choices:
                raise ValueError(nearest(canonical, list(self.choices)))
            return canonical
        if self.item is Path and not word:
            raise ValueError
        try:
            return self.item(word)
        except (ValueError, OverflowError):
            raise ValueError from None


def options_of(cls: type, prefix: str = "") -> dict[str, Option]:
    """Returns every option of a dataclass by its name; those of its tables are `table.option`.

    A table that is declared `flat` has its options without the table's name.
    """
    found: dict[str, Option] = {}
    kinds = field_types(cls)
    for f in dataclasses.fields(cls):
        kind, name = kinds[f.name], prefix + f.name.replace("_", "-")
        if dataclasses.is_dataclass(kind):
            inner = prefix if f.metadata.get("flat") else f"{name}."
            found |= options_of(typing.cast(type, kind), inner)
            continue
        optional = typing.get_origin(kind) in (types.UnionType, typing.Union)
        if optional:
            kind = next(a for a in typing.get_args(kind) if a is not type(None))
        found[name] = Option(
            name=name,
            kind=kind,
            optional=optional,
            default=MISSING if f.default is MISSING else f.default,
            positional=bool(f.metadata.get("positional")),
            owner=cls,
        )
    return found
