"""A watch on the arguments and results of a host's own methods, while it computes its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def watching(module: Any, **methods: Callable[[tuple[Any, ...], Any], None]) -> Iterator[None]:
    """Call `methods[name](arguments, result)` after every call of `module.name`; as before, after.

    Only this instance is watched, and names that it lacks are left out.
    """
    before = {name: vars(module).get(name) for name in methods if hasattr(module, name)}
    for name in before:
        setattr(module, name, _watched(getattr(module, name), methods[name]))
    try:
        yield
    finally:
        for name, own in before.items():
            delattr(module, name) if own is None else setattr(module, name, own)


def _watched(
    method: Callable[..., Any], see: Callable[[tuple[Any, ...], Any], None]
) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        result = method(*arguments, **named)
        see(arguments, result)
        return result

    return call
