"""An option beside its type and its help: the range of its numbers, and when it has an effect.

Every command and every table of a configuration declares its options with `option` and `table`, so
that one function checks all ranges and one finds what was given without any effect.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator
from dataclasses import MISSING, dataclass, field
from operator import attrgetter
from typing import Any

from topk_ortho.config.errors import require

_LARGEST = 1.7e308
_SMALLEST = 5e-324
_BELOW_ONE = 1 - 2**-53


@dataclass(frozen=True)
class Range:
    """The numbers that an option takes; NaN is in no range.

    Attributes:
        least: the smallest.
        most: the largest.
        words: both, as the message says them.
        fix: what to do.
    """

    least: float
    most: float
    words: str
    fix: str = "see --help for the default"


def whole(least: int, most: int, words: str = "", *, fix: str = "") -> Range:
    """Returns a range of whole numbers."""
    words = words or f"a whole number from {least} to {most}"
    return Range(least, most, words, fix or "see --help for the default")


FROM_0 = Range(0, _LARGEST, "0 or more")
ABOVE_0 = Range(_SMALLEST, _LARGEST, "a finite number above 0")
RATE = Range(_SMALLEST, 1, "a rate above 0 and up to 1")
SHARE = Range(0, 1, "a share in [0, 1]")
SHARE_ABOVE_0 = Range(_SMALLEST, 1, "a share of the pairs in (0, 1]", "0.001 is 0.1 % of them")
COSINE = Range(-1, 1, "a cosine in [-1, 1]")
DECAY = Range(0, _BELOW_ONE, "a number from 0 and below 1")
DECAY_ABOVE_0 = Range(_SMALLEST, _BELOW_ONE, "a number above 0 and below 1")
SEED = whole(0, 2**63 - 1, "a whole number from 0 to 2^63 - 1")
STEPS = whole(0, 10**12)
STEPS_FROM_1 = whole(1, 10**12)
"""Numbers of steps: 10^12 of one millisecond are thirty years."""
ROWS = whole(1, 2**40)
"""Numbers of activations that are read one after another, and cost time alone."""
ROWS_IN_MEMORY = whole(1, 2**31)
"""Numbers of activations that are held at once."""
FEATURES = whole(0, 2**24)
FEATURES_FROM_1 = whole(1, 2**24)


@dataclass(frozen=True)
class When:
    """The values of another option with which an option has an effect.

    Attributes:
        option: the other one, such as `sae.kind`.
        values: its values, or what returns them.
        wanted: False where it is all values but these.
    """

    option: str
    values: tuple[Any, ...] | Callable[[], Collection[Any]]
    wanted: bool = True

    def holds(self, config: Any) -> bool:
        """Returns whether the option has an effect in a configuration."""
        return (_value(config, self.option) in self.values_now()) == self.wanted

    def values_now(self) -> tuple[Any, ...]:
        """The values, looked up where they are not fixed."""
        return tuple(self.values()) if callable(self.values) else self.values

    def now(self, config: Any) -> str:
        """Returns the other option and its value in a configuration, for a message."""
        return self.shown(_value(config, self.option))

    def shown(self, value: Any) -> str:
        """Returns the other option with a value, as on the command line."""
        if value is None:
            return f"no --{self.option}"
        if isinstance(value, bool):
            head, dot, tail = self.option.rpartition(".")
            return f"--{head}{dot}{'' if value else 'no-'}{tail}"
        number = isinstance(value, float)
        return f"--{self.option} {value:g}" if number else f"--{self.option} {value}"


def when(option: str, *values: Any) -> When:
    """Returns the condition that `option` has one of `values`."""
    return When(option, values)


def unless(option: str, *values: Any) -> When:
    """Returns the condition that `option` has none of `values`."""
    return When(option, values, wanted=False)


def option(
    default: Any = MISSING,
    *,
    within: Range | None = None,
    used: When | None = None,
    positional: bool = False,
) -> Any:
    """Returns a dataclass field.

    Args:
        default: required unless given.
        within: range of its number, or of each of its numbers.
        used: when it has an effect; always unless given.
        positional: given by its place on the command line, and not by its name.
    """
    known = {"within": within, "used": used, "positional": positional}
    return field(default=default, metadata={k: v for k, v in known.items() if v})


def table(cls: type, *, used: When | None = None, flat: bool = False) -> Any:
    """Returns a dataclass field for a table of options.

    Args:
        cls: the dataclass of the table.
        used: when the table has an effect; always unless given.
        flat: on the command line, its options stand without the table's name.
    """
    known = {"used": used, "flat": flat}
    return field(default_factory=cls, metadata={k: v for k, v in known.items() if v})


def check_ranges(options: Any, prefix: str = "") -> None:
    """Refuse a number that is out of the range of its option.

    Raises:
        ConfigError: a number is out of range; the message names the first.
    """
    for f, value in _fields(options):
        name = prefix + f.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{name}.")
        elif "within" in f.metadata and value is not None:
            for number in value if isinstance(value, tuple) else (value,):
                check_number(name, number, f.metadata["within"])


def check_number(name: str, number: float, within: Range) -> None:
    """Refuse a number that is out of its range.

    Args:
        name: of the option, without the hyphens in front.
        number: what was given.
        within: its range.

    Raises:
        ConfigError: the number is out of range.
    """
    require(
        within.least <= number <= within.most,
        f"--{name} {number} was given",
        f"{within.words} was expected",
        within.fix,
    )


def without_effect(given: Collection[str], *configs: Any) -> Iterator[tuple[str, When]]:
    """Yields each given option that has no effect in any of the configurations, and its condition.

    Args:
        given: names of options, such as `sae.bandwidth`; unknown ones are passed over.
        configs: what they came to, one configuration or those of several arms.
    """
    for name in sorted(given):
        unmet = [_unmet(name, config) for config in configs]
        if unmet and all(unmet):
            yield name, unmet[0]  # type: ignore[misc]


def _unmet(name: str, config: Any) -> When | None:
    """The condition of an option or of its table that does not hold."""
    cls, parts = type(config), name.replace("-", "_").split(".")
    for part in parts:
        fields = (
            {f.name: f for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
        )
        if part not in fields:
            return None
        condition: When | None = fields[part].metadata.get("used")
        if condition is not None and not condition.holds(config):
            # "no" to what does not happen anyway is no mistake
            return None if _value(config, name) is False else condition
        cls = fields[part].default_factory  # type: ignore[assignment]
    return None


def _fields(options: Any) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    for f in dataclasses.fields(options):
        yield f, getattr(options, f.name)


def _value(config: Any, option: str) -> Any:
    return attrgetter(option.replace("-", "_"))(config)
