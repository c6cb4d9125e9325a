"""Named spans: the phases of a step, for profilers and tests.

    with span("forward"):
        ...

A clock (`machine/profile.py`), a test, or torch's profiler sees the phase; while none of them
listens, a span costs less than a microsecond. The names are data that others keep (`profile.json`,
traces, the lists of host waits), so they stay when functions are renamed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:  # a history has spans and works without torch
    import torch

PHASES = ("data", "forward", "backward", "scores", "selection", "penalty", "optimiser", "history")
"""Phases of a step; `selection` is inside of `scores`, the penalty's gradient of `backward`."""
BACKGROUND = "history thread"
"""The phase in which the history observes, in its own thread."""
PREFIX = "topk_ortho: "
"""Prefix of the names in a trace."""

P = ParamSpec("P")
T = TypeVar("T")


class Listener(Protocol):
    """A listener, called in the thread that a span is in."""

    def entered(self, phase: str) -> None: ...

    def left(self, phase: str) -> None: ...


_listener: Listener | None = None


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Report to `listener` every span that begins inside; one listener at a time."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


class _Nothing:
    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(self, *error: Any) -> None: ...


class _Span:
    __slots__ = ("_listener", "_phase", "_record")

    def __init__(self, phase: str) -> None:
        self._phase = phase

    def __enter__(self) -> None:
        self._listener = _listener
        self._record: torch.profiler.record_function | None = None
        if self._listener is not None:
            self._listener.entered(self._phase)
        if _profiled():
            import torch

            self._record = torch.profiler.record_function(PREFIX + self._phase)
            self._record.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self._record is not None:
            self._record.__exit__(*error)
        if self._listener is not None:
            self._listener.left(self._phase)


_NOTHING = _Nothing()


def _profiled() -> bool:
    """Whether torch's profiler runs; it cannot before torch was imported."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.autograd.profiler._is_profiler_enabled


def span(phase: str) -> AbstractContextManager[None]:
    """Returns a context in which `phase` runs, without the spans inside of it."""
    if _listener is None and not _profiled():
        return _NOTHING
    return _Span(phase)


def spanned(phase: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Returns a decorator that makes every call of a function a span."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> T:
            with span(phase):
                return function(*args, **kwargs)

        return inside

    return decorate
