"""The options of a command, as its dataclass declares them: names, types, defaults."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from topk_ortho.config.toml import nearest

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
        choices: its values, where they are few.
        owner: the dataclass that declares it.
    """

    name: str
    kind: Any
    optional: bool
    default: Any
    positional: bool
    choices: tuple[str, ...]
    owner: type

    @property
    def shown(self) -> str:
        """How messages name it."""
        return self.name.upper() if self.positional else f"--{self.name}"

    @property
    def flag(self) -> bool:
        """Whether it stands without a value."""
        return self.kind is bool

    @property
    def many(self) -> bool:
        """Whether it takes any number of values."""
        return typing.get_origin(self.kind) is tuple and Ellipsis in typing.get_args(self.kind)

    @property
    def count(self) -> int:
        """How many values it takes, where it does not take any number."""
        return len(typing.get_args(self.kind)) if typing.get_origin(self.kind) is tuple else 1

    @property
    def item(self) -> Any:
        """The type of one value."""
        return typing.get_args(self.kind)[0] if typing.get_origin(self.kind) is tuple else self.kind

    @property
    def expected(self) -> str:
        """What a value has to be, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        return NAMES.get(self.item, "a value")

    def value(self, word: str) -> Any:
        """The value that a word stands for.

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
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        kind, name = hints[f.name], prefix + f.name.replace("_", "-")
        if dataclasses.is_dataclass(kind):
            inner = prefix if f.metadata.get("flat") else f"{name}."
            found |= options_of(typing.cast(type, kind), inner)
            continue
        optional = typing.get_origin(kind) is types.UnionType
        if optional:
            kind = next(a for a in typing.get_args(kind) if a is not type(None))
        found[name] = Option(
            name=name,
            kind=kind,
            optional=optional,
            default=MISSING if f.default is MISSING else f.default,
            positional=bool(f.metadata.get("positional")),
            choices=_choices(kind, f),
            owner=cls,
        )
    return found


def _choices(kind: Any, f: dataclasses.Field[Any]) -> tuple[str, ...]:
    if "choices" in f.metadata:
        return tuple(f.metadata["choices"]())
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
