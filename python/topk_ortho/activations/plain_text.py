"""Lines of a file that has to be plain UTF-8 text, read as a stream from any of them on.

Refused, with the position of the first offending byte: other encodings, control characters,
compressed and binary files. Refused by suffix: tables and JSON documents, whose commas and braces
would be trained on. A byte-order mark of UTF-8 is no text and is skipped.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from pathlib import Path
from typing import Any, BinaryIO

from topk_ortho.config import ConfigError

PIECE = 1 << 16
RECORDS = (".json", ".csv", ".tsv")
MAGIC = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"\x04\x22\x4d\x18": "lz4",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"%PDF-": "PDF",
    b"%!PS": "PostScript",
    b"{\\rtf": "RTF",
    b"\xd0\xcf\x11\xe0": "Microsoft Office",
    b"\x93NUMPY": "NumPy",
    b"\x89HDF": "HDF5",
    b"SQLite format 3": "SQLite",
    b"\x7fELF": "program",
    b"\x89PNG": "PNG",
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""First bytes of a file, and what it is; longer beginnings come before shorter ones."""

_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
"""All but tab, line feed, vertical tab, form feed and carriage return."""


def open_lines(path: Path, *, offset: int = 0, line: int = 1, records: bool = False) -> BinaryIO:
    """Returns the file as a stream of bytes that checks what it reads; the caller closes it.

    Args:
        path: the file.
        offset: bytes before the first that is read, a place where a character begins.
        line: its line, for messages.
        records: whether lines may be JSON objects.

    Raises:
        ConfigError: the file is not plain UTF-8 text; also raised while it is read.
        OSError: it cannot be opened.
    """
    if path.suffix.lower() in RECORDS:
        raise ConfigError(
            f"{str(path)!r} was given, but plain text was expected, and by its suffix it holds "
            'records; write each text as one line {"text": ...} of a .jsonl file, or the texts '
            "alone to a .txt file, with a blank line between two."
        )
    checked = _Checked(path, offset=offset, line=line, records=records)
    return io.BufferedReader(checked, PIECE)


def without_mark(line: bytes, *, offset: int) -> bytes:
    """Returns the line at `offset` of a file without the byte-order mark of its first."""
    return line if offset else line.removeprefix(codecs.BOM_UTF8)


class _Checked(io.RawIOBase):
    """The bytes of a file, which are refused where they are no UTF-8 text."""

    def __init__(self, path: Path, *, offset: int, line: int, records: bool) -> None:
        self._path = path
        self._records = records
        self._file = path.open("rb", buffering=0)
        self._file.seek(offset)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._bytes, self._lines = offset, line

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        self._check(bytes(memoryview(buffer)[:count]))
        return count

    def _check(self, piece: bytes) -> None:
        """Take in the next bytes, none of them at the end."""
        if self._bytes == 0:
            self._check_beginning(piece)
        control = _CONTROL.search(piece)
        waiting = len(self._decoder.getstate()[0])
        try:
            self._decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            at = error.start - waiting
            if control is None or at < control.start():
                raise self._refused(piece, at, f"not valid UTF-8 ({error.reason})") from None
        if control is not None:
            said = "NUL, as in UTF-16 or binary files" if control[0] == b"\0" else "control"
            raise self._refused(
                piece, control.start(), f"the character {control[0][0]:#04x} ({said})"
            )
        self._bytes += len(piece)
        self._lines += piece.count(b"\n")

    def _check_beginning(self, piece: bytes) -> None:
        kind = next((kind for magic, kind in MAGIC.items() if piece.startswith(magic)), None)
        if kind is not None:
            raise ConfigError(
                f"{str(self._path)!r} is not UTF-8 text, which was expected, but {kind} by its "
                "first bytes; unpack or convert it to UTF-8 text first."
            )
        first, whole, _ = piece.partition(b"\n")
        if not self._records and whole and first.startswith(b"{") and _is_json(first):
            raise ConfigError(
                f"{str(self._path)!r} is not plain text, which was expected, but one JSON object "
                "per line; give it a name that ends with .jsonl."
            )

    def _refused(self, piece: bytes, at: int, what: str) -> ConfigError:
        line = self._lines + piece.count(b"\n", 0, max(at, 0))
        return ConfigError(
            f"{str(self._path)!r} is not UTF-8 text, which was expected: byte "
            f"{self._bytes + at:,} (line {line:,}) is {what}; convert it to UTF-8, or remove what "
            "is not text."
        )


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
