"""The one reader of command lines: words in, checked values out.

Options are `--name value`, `--name=value`, `--name` and `--no-name` for a flag; hyphens and
underscores are the same. An option of many values takes all that follow and accumulates when it is
repeated; any other option may be given once. Anything after `--` is no option.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from typing import Any, TypeVar

from topk_ortho.commands.reader.help import help_text
from topk_ortho.commands.reader.options import Option, options_of
from topk_ortho.config.errors import ConfigError, nearest
from topk_ortho.config.option import check_ranges
from topk_ortho.config.renamed import renamed_option, renamed_value
from topk_ortho.config.rules import check_effect

T = TypeVar("T")
SHOWN = 60
"""Characters of a value that a message repeats."""


@dataclass(frozen=True)
class Given:
    """The contents of a command line.

    Attributes:
        values: by the name of the option, such as `pairs.per-feature`.
        words: the same as it was written, option by option.
    """

    values: dict[str, Any]
    words: dict[str, list[str]] = field(default_factory=dict)

    def own(self, cls: type) -> dict[str, Any]:
        """Returns the values of options that are fields of the dataclass itself, by field."""
        own = {
            name: name.replace("-", "_") for name, o in options_of(cls).items() if o.owner is cls
        }
        return {own[name]: value for name, value in self.values.items() if name in own}

    def command(self, *, without: Collection[str] = ()) -> list[str]:
        """Returns the words of an equivalent command line, without some of its options."""
        out: list[str] = []
        for name, words in self.words.items():
            if name in without:
                continue
            head, dot, tail = name.rpartition(".")
            shown = f"{head}{dot}no-{tail}" if self.values[name] is False else name
            out += [f"--{shown}={words[0]}"] if len(words) == 1 else [f"--{shown}", *words]
        return out


def read(
    cls: type,
    arguments: Sequence[str],
    *,
    prog: str,
    refused: Mapping[str, str] | None = None,
) -> Given:
    """Returns what was given of the options of a dataclass.

    Args:
        cls: the dataclass.
        arguments: the words after the command's name.
        prog: how the command is called.
        refused: options of other commands that mean nothing here, and what to do instead.

    Raises:
        ConfigError: an unknown option, a value that cannot be read, or something missing.
        SystemExit: `--help`, which was printed.
    """
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    if {"-h", "--help"} & set(words[:end]):
        print(help_text(cls, prog=prog))
        raise SystemExit(0)
    found = _Words(options_of(cls), refused or {}, prog)
    for word in words[:end]:
        found.take(word)
    for word in words[end + 1 :]:
        found.place(word)
    return found.given()


def build(cls: type[T], given: Given) -> T:
    """Returns the command's own options, their numbers within their ranges.

    Raises:
        ConfigError: a number out of its range, or an option without effect.
    """
    options = cls(**given.own(cls))
    check_ranges(options)
    check_effect({name.partition(".")[0]: "" for name in given.values}, options)
    return options


class _Words:
    """Words so far, by the option they belong to."""

    def __init__(self, options: dict[str, Option], refused: Mapping[str, str], prog: str):
        self.options = options
        self.refused = refused
        self.prog = prog
        self.words: dict[str, list[str]] = {}
        self.flags: dict[str, bool] = {}
        self.left = [o for o in options.values() if o.positional]
        self.open: Option | None = None
        self.last = "no option"

    def take(self, word: str) -> None:
        """The next word."""
        if word.startswith("--"):
            self._option(word)
        elif self.open is not None and self._takes(self.open):
            self.words[self.open.name].append(word)
        else:
            self.place(word)

    def place(self, word: str) -> None:
        """A word that no option takes: the next argument by its place."""
        if not self.left:
            raise ConfigError(
                f"{_short(word)!r} was given after {self.last}, but an option was expected there; "
                "remove it, or see --help."
            )
        option = self.left[0]
        self.words.setdefault(option.name, []).append(word)
        if not option.many:
            self.left.pop(0)

    def given(self) -> Given:
        """All values.

        Raises:
            ConfigError: something is missing, or a value cannot be read.
        """
        self._complete()
        values: dict[str, Any] = dict(self.flags)
        for name, words in self.words.items():
            read = [self._value(self.options[name], word) for word in words]
            single = self.options[name].count == 1 and not self.options[name].many
            values[name] = read[0] if single else tuple(read)
        missing = [o.shown for n, o in self.options.items()
                   if o.default is MISSING and n not in values]  # fmt: skip
        if missing:
            raise ConfigError(
                f"{self.prog} was given without {' and '.join(missing)}, but "
                f"{'it is' if len(missing) == 1 else 'they are'} needed; add "
                f"{'it' if len(missing) == 1 else 'them'}, or see {self.prog} --help."
            )
        return Given(values, self.words | {name: [] for name in self.flags})

    def _option(self, word: str) -> None:
        self._complete()
        name, equals, value = word[2:].partition("=")
        option, truth = self._named(name.replace("_", "-"))
        self.last, self.open = f"--{name.replace('_', '-')}", None if option.flag else option
        if option.flag:
            if equals:
                raise ConfigError(
                    f"--{name}={_short(value)} was given, but --{option.name} takes no "
                    "value; remove the value."
                )
            self._once(option, option.name in self.flags)
            self.flags[option.name] = truth
            return
        self._once(option, option.name in self.words and not option.many)
        self.words.setdefault(option.name, [])
        self._before = len(self.words[option.name])
        if equals:
            self.words[option.name].append(value)

    def _once(self, option: Option, before: bool) -> None:
        if before:
            raise ConfigError(
                f"--{option.name} was given twice, but once was expected; leave one of them out."
            )

    def _named(self, name: str) -> tuple[Option, bool]:
        """The option of a name, and False where the name is its negation."""
        if name in self.refused:
            raise ConfigError(f"--{name} was given, but {self.refused[name]}; leave it out.")
        if f"{name}.enabled" in self.options and name not in self.options:
            name = f"{name}.enabled"
        option = self.options.get(name)
        if option is not None and not option.positional:
            return option, True
        head, dot, tail = name.rpartition(".")
        positive = f"{head}{dot}{tail.removeprefix('no-')}"
        plain = self.options.get(positive) or self.options.get(f"{positive}.enabled")
        if tail.startswith("no-") and plain is not None and plain.flag:
            return plain, False
        if sentence := renamed_option(name):
            raise ConfigError(f"--{sentence.replace(' now; write ', ' now; write --')}")
        known = [n for n, o in self.options.items() if not o.positional]
        near = nearest(name, known).replace("meant ", "meant --").replace(" or ", " or --")
        raise ConfigError(
            f"the option --{_short(name)} was given, but there is no such option{near}; "
            "see --help for all of them."
        )

    def _takes(self, option: Option) -> bool:
        return option.many or len(self.words[option.name]) < option.count

    def _complete(self) -> None:
        """Refuse an option without its value."""
        option = self.open
        if option is None:
            return
        count = len(self.words[option.name])
        if count == self._before:
            raise ConfigError(
                f"--{option.name} was given without a value, but {option.expected} was expected; "
                "add it."
            )
        if not option.many and count < option.count:
            raise ConfigError(
                f"--{option.name} {' '.join(self.words[option.name])} was given, but "
                f"{option.count} values were expected; add them."
            )

    def _value(self, option: Option, word: str) -> Any:
        if (new := renamed_value(option.name, word)) is not None:
            raise ConfigError(
                f"{option.shown} {word} was given, but it is called {new} now; write {new}."
            )
        try:
            return option.value(word)
        except ValueError as error:
            raise ConfigError(
                f"{option.shown} {_short(word)} was given, but {option.expected} was expected"
                f"{error}; correct it."
            ) from None


def _short(word: str) -> str:
    return word if len(word) <= SHOWN else f"{word[:SHOWN]}..."
