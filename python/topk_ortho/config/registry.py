"""Tables of named records that any package may add to. Imports no torch.

A configuration has to know which names exist, but must not import what they stand for. So a table
knows where its records live, and imports that module when it is first asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from topk_ortho.config.errors import one_of

if TYPE_CHECKING:
    from topk_ortho.constraint.criteria import Criterion
    from topk_ortho.sae import SAE


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str: ...


R = TypeVar("R", bound=Named)
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class Registry(Generic[R]):
    """Records by name: those that `home` registers, then those of other packages.

    A package that is installed adds its own through an entry point of the group `home`, a module
    that registers them when it is imported; a script registers them before it asks for them.

    Args:
        noun: what a record is, for messages.
        home: the module that registers this package's records; imported at the first look-up.
        own: their names, where the home takes long to import: names are then listed without it.
    """

    def __init__(self, noun: str, *, home: str, own: tuple[str, ...] = ()):
        self.noun = noun
        self.home = home
        self.own = own
        self._records: dict[str, R] = {}
        self._complete = False

    def register(self, record: R) -> R:
        """Add a record, and return it.

        Raises:
            ValueError: its name is taken, or is not lower-case words joined by hyphens.
        """
        if not NAME.fullmatch(record.name):
            raise ValueError(
                f"the {self.noun} {record.name!r} was registered, but lower-case words joined by "
                "hyphens were expected; rename it."
            )
        if record.name in self._records:
            raise ValueError(
                f"the {self.noun} {record.name} was registered, but there is one of that name; "
                "choose another."
            )
        self._records[record.name] = record
        return record

    def names(self) -> tuple[str, ...]:
        """Returns every name, this package's first."""
        if not self.own or entry_points(group=self.home):
            self._complete_once()
        return tuple(dict.fromkeys((*self.own, *self._records)))

    def __iter__(self) -> Iterator[R]:
        self._complete_once()
        return iter(tuple(self._records.values()))

    def __contains__(self, name: object) -> bool:
        self._complete_once()
        return name in self._records

    def __getitem__(self, name: str) -> R:
        """Returns the record of that name; hyphens and underscores are the same.

        Raises:
            ConfigError: there is none; the message offers the nearest.
        """
        self._complete_once()
        return self._records[one_of(self.noun, name, self._records)]

    def _complete_once(self) -> None:
        if self._complete:
            return
        self._complete = True  # before the imports, which may look something up themselves
        try:
            import_module(self.home)
            for entry in entry_points(group=self.home):
                entry.load()
        except BaseException:
            self._complete = False
            raise


@dataclass(frozen=True)
class OneOf:
    """The words that an option of type `str` may have, in `Annotated[str, OneOf(...)]`.

    Attributes:
        registry: its names.
        besides: other words, which come first.
    """

    registry: Registry[Any]
    besides: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Returns every word that may be given."""
        return (*self.besides, *self.registry.names())


CRITERIA: Registry[Criterion] = Registry("criterion", home="topk_ortho.constraint.criteria")
ARCHITECTURES: Registry[type[SAE]] = Registry(
    "architecture",
    home="topk_ortho.sae",
    own=("topk", "batch-topk", "relu", "jumprelu", "matryoshka"),
)
