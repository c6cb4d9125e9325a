"""Refusals of settings: their error, and the nearest name of those that would do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_GIVEN = re.compile(r"--([a-z][\w.-]*) (?!was|were|and|or|has)(\S+)(?= (?:was|were|and|or)\b)")
_NAME = re.compile(r"--((?:[a-z][\w-]*\.)?)(no-)?([a-z][\w-]*)")


class ConfigError(ValueError):
    """A setting that cannot be used; the message says what was given, expected, and what to do."""


def require(condition: bool, given: str, expected: str, fix: str) -> None:
    """Raise ConfigError from the three parts of its sentence unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{given}, but {expected}; {fix}.")


def as_python(message: str) -> str:
    """Returns a message with options as Python has them: `sae.d_sae=1` for `--sae.d-sae 1`."""

    def named(found: re.Match[str]) -> str:
        table, no, name = found.groups()
        return f"{table}{name}".replace("-", "_") + ("=False" if no else "")

    return _NAME.sub(named, _GIVEN.sub(r"--\1=\2", message))


@contextmanager
def in_python() -> Iterator[None]:
    """Refuse settings that Python gave in Python's words.

    Raises:
        ConfigError: what was raised inside, with options as Python has them.
    """
    try:
        yield
    except ConfigError as error:
        raise ConfigError(as_python(str(error))) from None


def nearest(name: str, names: Iterable[str]) -> str:
    """` (perhaps you meant X)` for the closest of `names`, or nothing."""
    close = closest(name, names)
    return f" (perhaps you meant {' or '.join(close)})" if close else ""


def closest(name: str, names: Iterable[str]) -> list[str]:
    """Returns the ones of `names` that `name` may stand for; none, one, or several alike.

    A name in a table (`sae.k`) may be given without it, and one of several words (`batch-topk`)
    abbreviated (`btopk`); else the most similar one counts, whole or without its table.
    """
    names = list(names)
    tails = {n: n.rpartition(".")[2] for n in names}
    if same := [n for n, tail in tails.items() if tail == name]:
        return same[:2]
    if short := [n for n, tail in tails.items() if _abbreviates(name, tail)]:
        return difflib.get_close_matches(name, short, n=1, cutoff=0)
    for others in (names, list(tails.values())):
        if close := difflib.get_close_matches(name, others, n=1, cutoff=0.55):
            return [close[0]] if others is names else [n for n in names if tails[n] == close[0]][:2]
    return []


def _abbreviates(short: str, name: str) -> bool:
    """Returns whether `short` has the first letters of all words of `name`, and more of each."""
    words = [word for word in re.split("[-_]", name) if word]
    if len(words) < 2 or len(short) < 3:
        return False
    pattern = "".join(
        re.escape(word[0]) + "".join(f"{re.escape(c)}?" for c in word[1:]) for word in words
    )
    return re.fullmatch(pattern, re.sub("[-_]", "", short)) is not None


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
