"""Documents of files and datasets, read as a stream from any place that was stored.

A place is a JSON value. Reading from it gives the same groups of documents as reading up to it and
on, so that a position in a stream of tokens is exact. Plain text has blank lines between
documents; a document may be cut into pieces of at most `LONGEST` bytes, so that memory does not
follow the length of the longest.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from topk_ortho.activations.plain_text import open_lines, without_mark
from topk_ortho.activations.records import SUFFIXES, read_records, text_bytes
from topk_ortho.config import ConfigError
from topk_ortho.config.train import check_text_file

LONGEST = 1 << 20
"""Bytes of a piece of a document, where documents are cut."""
GROUP = 64
"""Documents of a group."""

_BETWEEN = re.compile(r"\n(?:[^\S\n]*\n)+")
"""The blank lines between two documents."""


class Document(NamedTuple):
    """A text, or a piece of one.

    Attributes:
        text: empty where there are messages.
        ends: False for a piece that the next document continues.
        messages: of a chat, each with `role` and `content`.
    """

    text: str
    ends: bool = True
    messages: Sequence[dict[str, Any]] | None = None


Group = tuple[list[Document], Any]
"""Documents that were read together, and the place after them."""


class Documents(Protocol):
    """Documents that can be read from any place."""

    size: int | None
    """Bytes of text, None where that is not known."""

    def read(self, place: Any = None) -> Iterator[Group]:
        """Yields groups of documents from a place on, from the first one unless given."""


class Files:
    """The documents of files: plain text, JSON lines, Parquet and Arrow, by their suffixes.

    Args:
        paths: one or more files.
        longest: bytes of a piece of a plain document; None reads each as a whole.
        chats: whether records hold `messages` in place of text.
    """

    def __init__(
        self, paths: Sequence[str | Path], *, longest: int | None = LONGEST, chats: bool = False
    ) -> None:
        self.paths = [Path(path) for path in paths]
        self._longest, self._chats = longest, chats
        self.size: int | None = sum(map(_bytes, self.paths))

    def read(self, place: Any = None) -> Iterator[Group]:
        """Yields groups of documents; a place is the file's number and one inside of it.

        Raises:
            ConfigError: a file that is missing or cannot be used; the message names it, and where.
        """
        first, inside = place or (0, None)
        for number, path in enumerate(self.paths[first:], start=first):
            check_text_file(path)
            try:
                for documents, after in self._file(path, inside):
                    yield documents, [number, after]
            except OSError as error:
                raise ConfigError(
                    f"--text {path} was given, but it cannot be read ({error.strerror or error}); "
                    "give existing files."
                ) from error
            inside = None

    def _file(self, path: Path, place: Any) -> Iterator[Group]:
        if path.suffix.lower() not in SUFFIXES:
            if self._chats:
                raise ConfigError(
                    f"--chat-roles was given, but --text {path} is plain text, and records with a "
                    "column `messages` were expected; give a .jsonl, .parquet or .arrow file."
                )
            yield from _plain(path, place, self._longest)
            return
        column = "messages" if self._chats else None
        for values, after in read_records(path, place, rows=GROUP, column=column):
            if self._chats:
                yield [Document("", messages=messages) for messages in values], after
            else:
                yield [Document(text) for text in values], after


def _bytes(path: Path) -> int:
    try:
        return text_bytes(path)
    except OSError:
        return 0  # a missing file is named where it is read


def _plain(path: Path, place: Any, longest: int | None) -> Iterator[Group]:
    """Documents of a text file; a place is offset, line, and whether a document goes on there."""
    place = place or [0, 1, False]
    while place is not None:
        place = yield from _stretch(path, place, longest)


def _stretch(path: Path, place: Any, longest: int | None) -> Generator[Group, None, Any]:
    """Documents from a place up to the first that is cut; returns the place of the cut, None at the
    end of the file. Reading begins anew behind a cut, as it does where it is resumed."""
    offset, line, inside = place
    part = bytearray()
    group: list[Document] = []
    with open_lines(path, offset=offset, line=line) as file:
        while raw := file.readline(-1 if longest is None else longest):
            text = without_mark(raw, offset=offset)
            offset, line = offset + len(raw), line + raw.endswith(b"\n")
            if text.strip():
                part += text
            elif part or inside:
                group += _documents(part, ends=True)
                part, inside = bytearray(), False
            if longest is not None and len(part) >= longest:
                kept = _cut(part)
                left = part[kept:]
                after = [offset - len(left), line - left.count(b"\n"), True]
                yield [*group, *_documents(part[:kept], ends=False)], after
                return after
            if len(group) >= GROUP:
                yield group, [offset, line, False]
                group = []
    if part or inside:
        group += _documents(part, ends=True)
    yield group, [offset, line, False]
    return None


def _documents(part: bytearray, *, ends: bool) -> list[Document]:
    """Documents of bytes between two blank lines, of which Unicode knows more than ASCII."""
    text = part.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    *before, last = _BETWEEN.split(text)
    found = [Document(piece.strip("\n")) for piece in before if piece.strip()]
    last = last.strip("\n") if ends else last
    return [*found, Document(last, ends)] if last.strip() or not before else found


def _cut(part: bytearray) -> int:
    """Returns the bytes before the last line end or blank, or before the last whole character."""
    for end in (b"\n", b" "):
        if (at := part.rfind(end)) > 0:
            return at + 1 if end == b"\n" else at
    decoder = codecs.getincrementaldecoder("utf-8")()
    decoder.decode(bytes(part))
    return len(part) - len(decoder.getstate()[0])
