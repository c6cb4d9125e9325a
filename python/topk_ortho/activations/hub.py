"""Documents of a dataset of the Hugging Face hub, streamed from any place on.

Refused: a dataset that cannot be read, or without a column of text; the message says what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from topk_ortho.activations.documents import GROUP, Document, Group
from topk_ortho.activations.records import messages_of, text_of
from topk_ortho.config import ConfigError


class Dataset:
    """The documents of `name` or `name:configuration`; nothing is downloaded before it is read.

    Args:
        name: of the dataset.
        split: of it.
        chats: whether its records hold `messages` in place of text.
    """

    size: int | None = None

    def __init__(self, name: str, *, split: str = "train", chats: bool = False) -> None:
        self.name, self._split, self._chats = name, split, chats

    def read(self, place: Any = None) -> Iterator[Group]:
        """Yields groups of documents; a place is what `datasets` says of its own, or a number.

        Raises:
            ConfigError: `datasets` is not installed, the dataset cannot be read, or has no text.
        """
        load = _loader()
        path, _, configuration = self.name.partition(":")
        try:
            rows = load(path, configuration or None, split=self._split, streaming=True)
            yield from self._groups(rows, place)
        except ConfigError:
            raise
        except Exception as error:
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigError(
                f"the dataset {self.name!r} cannot be read ({cause}); "
                f"{_advice(error, cause, self._split)}."
            ) from error

    def _groups(self, rows: Any, place: Any) -> Iterator[Group]:
        knows_its_place = hasattr(rows, "state_dict")
        done = 0
        if knows_its_place and place is not None:
            rows.load_state_dict(place)
        elif place is not None:
            rows, done = rows.skip(place) if hasattr(rows, "skip") else rows[place:], place
        reading = iter(rows)
        while some := list(islice(reading, GROUP)):
            done += len(some)
            documents = [self._document(row) for row in some]
            yield documents, rows.state_dict() if knows_its_place else done

    def _document(self, row: dict[str, Any]) -> Document:
        where = f"the dataset {self.name!r}"
        if self._chats:
            return Document("", messages=messages_of(row, where))
        return Document(text_of(row, where))


def _loader() -> Any:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ConfigError(
            "a dataset by name needs the package `datasets`: pip install 'topk-ortho[datasets]', "
            "or give text files."
        ) from error
    return load_dataset


def _advice(error: Exception, cause: str, split: str) -> str:
    """Returns what to do about a dataset that cannot be read, by the reason."""
    if isinstance(error, (ConnectionError, TimeoutError)) or "offline" in cause.lower():
        return "check the network connection, or give text files with --text"
    if isinstance(error, ValueError) and "split" in cause.lower():
        return (
            f"a dataset with a split {split!r} was expected; take another dataset or "
            "configuration (`name:configuration`), or give text files with --text"
        )
    if isinstance(error, ValueError) and "config" in cause.lower():
        return "give one of its configurations as `name:configuration`"
    if isinstance(error, FileNotFoundError) or "exist" in cause.lower():
        return (
            "check the name: `name` or `name:configuration` of a Hugging Face dataset was expected"
        )
    return "expected a Hugging Face dataset as `name` or `name:configuration`"
