"""The values of options: their types, their listed names, and one value made to fit."""

from __future__ import annotations

import types
import typing
from functools import cache
from pathlib import Path
from typing import Any

from topk_ortho.config.errors import nearest
from topk_ortho.config.registry import OneOf
from topk_ortho.config.spelling import unspelled


class UnfitError(ValueError):
    """A value that an option cannot have; the message is what was expected."""


def choices(kind: Any) -> tuple[Any, ...]:
    """The values that an option of this type may have; none where they are not listed."""
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)
    listed = getattr(kind, "__metadata__", (None,))[0]
    return listed.names() if isinstance(listed, OneOf) else ()


@cache
def field_types(cls: type) -> dict[str, Any]:
    """Returns each field's type; of annotations only those that list its values stay."""
    plain, full = typing.get_type_hints(cls), typing.get_type_hints(cls, include_extras=True)
    return {
        name: full[name]
        if isinstance(getattr(full[name], "__metadata__", (None,))[0], OneOf)
        else kind
        for name, kind in plain.items()
    }


def typed(kind: Any, value: Any) -> Any:
    """Returns the value in the option's type: a path of a string, a float of a whole number, a
    tuple of a list or of a single value, a listed name with hyphens.

    Args:
        kind: the option's type, as `field_types` has it.
        value: not None; None is for the option's default.

    Raises:
        UnfitError: a value of the wrong type, or none of those that may be given.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return typed(next(a for a in args if a is not type(None)), value)
    if listed := choices(kind):
        hyphened = value.replace("_", "-") if isinstance(value, str) else value
        if hyphened in listed:
            return hyphened
        near = nearest(str(hyphened), [str(name) for name in listed])
        raise UnfitError(f"one of {', '.join(map(str, listed))}{near}")
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(typed(args[0], item) for item in items)
    if kind in (Path, str) and isinstance(value, str | Path):
        return kind(unspelled(str(value)))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UnfitError(f"a value of type {kind.__name__}")
    return value
