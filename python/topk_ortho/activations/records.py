"""Texts of files of records: JSON lines, Parquet, Arrow and Feather.

The text is the column `text`, or the only one of strings; of chats it is `messages`. JSON lines
are read by the standard library, the others by pyarrow, a few rows at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from topk_ortho.activations.plain_text import open_lines, without_mark
from topk_ortho.config import ConfigError

LINES = (".jsonl", ".ndjson")
TABLES = (".parquet", ".arrow", ".feather")
SUFFIXES = (*LINES, *TABLES)
Rows = tuple[list[Any], Any]
"""Values of one column in some rows, and the place after them."""


def read_records(path: Path, place: Any, *, rows: int, column: str | None) -> Iterator[Rows]:
    """Yields the texts of a file, or the values of another column, from a place on.

    Args:
        path: a file with one of `SUFFIXES`.
        place: as an earlier call gave it; None for the beginning.
        rows: at a time.
        column: its name; None for the text.

    Raises:
        ConfigError: a file that is damaged, or has no such column.
        OSError: it cannot be opened.
    """
    if path.suffix.lower() in LINES:
        yield from _json_lines(path, place, rows=rows, column=column)
        return
    pyarrow = _pyarrow(path)
    try:
        yield from _table(path, place, rows=rows, column=column)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise ConfigError(
            f"--text {path} cannot be read ({str(error).splitlines()[0]}), but by its suffix a "
            f"{path.suffix[1:].capitalize()} file was expected; check it."
        ) from error


def text_bytes(path: Path) -> int:
    """Returns about how many bytes of text a file holds.

    Raises:
        OSError: it cannot be opened.
    """
    size = path.stat().st_size
    if path.suffix.lower() != ".parquet":
        return size
    try:
        import pyarrow.parquet

        meta = pyarrow.parquet.read_metadata(path)
    except Exception:
        return size  # what is wrong with it is said where it is read
    return max(size, sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)))


def text_of(row: Mapping[str, Any], where: str) -> str:
    """Returns the text of one record.

    Raises:
        ConfigError: no column `text`, and not exactly one of strings.
    """
    if isinstance(row.get("text"), str):
        return row["text"]
    texts = [value for value in row.values() if isinstance(value, str)]
    if len(texts) != 1:
        raise ConfigError(
            f"{where} has the columns {sorted(row)}; expected one named `text`, or a single column "
            "of strings."
        )
    return texts[0]


def messages_of(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Returns the messages of a chat.

    Raises:
        ConfigError: no column `messages`, or what is in it is no list of roles and contents.
    """
    messages = row.get("messages")
    whole = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    )
    if not whole:
        raise ConfigError(
            f"{where} has the columns {sorted(row)}; with --chat-roles a column `messages` was "
            "expected, a list of `role` and `content`; leave --chat-roles out, or give chats."
        )
    assert isinstance(messages, list)
    return messages


def _value(row: Mapping[str, Any], column: str | None, where: str) -> Any:
    return text_of(row, where) if column is None else messages_of(row, where)


def _json_lines(path: Path, place: Any, *, rows: int, column: str | None) -> Iterator[Rows]:
    """A place is offset and line."""
    offset, line = place or (0, 1)
    values: list[Any] = []
    with open_lines(path, offset=offset, line=line, records=True) as file:
        for raw in file:
            where = f"line {line:,} of --text {path}"
            text = without_mark(raw, offset=offset)
            offset, line = offset + len(raw), line + 1
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{where} is not JSON ({error}); correct it.") from None
            if not isinstance(row, dict):
                raise ConfigError(
                    f"{where} is a {type(row).__name__}, but a JSON object was expected, such as "
                    '{"text": "..."}; correct it.'
                )
            values.append(_value(row, column, where))
            if len(values) == rows:
                yield values, [offset, line]
                values = []
    yield values, [offset, line]


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ConfigError(
            f"--text {path} needs the package `pyarrow`: pip install 'topk-ortho[datasets]', or "
            "give text files or JSON lines."
        ) from error
    return pyarrow


def _table(path: Path, place: Any, *, rows: int, column: str | None) -> Iterator[Rows]:
    """A place is the number of a row group (or record batch) and of a row in it."""
    first, skip = place or (0, 0)
    opened = _Parquet(path) if path.suffix.lower() == ".parquet" else _Arrow(path)
    wanted = _column(opened.schema, column, path)
    for group in range(first, opened.groups):
        done = 0
        for batch in opened.batches(group, wanted, rows):
            start, done = done, done + batch.num_rows
            if done <= skip:
                continue
            where = f"row {start:,} of part {group} or later in --text {path}"
            kept = [row for row in batch.to_pylist() if row[wanted] is not None]
            yield [_value(row, column, where) for row in kept], [group, done]
        skip = 0


def _column(schema: Any, column: str | None, path: Path) -> str:
    """Returns the name of the column to read."""
    if column is not None:
        messages_known = column in schema.names
        if not messages_known:
            messages_of(dict.fromkeys(schema.names), f"--text {path}")
        return column
    strings = [f.name for f in schema if str(f.type) in ("string", "large_string", "string_view")]
    if "text" in strings:
        return "text"
    if len(strings) != 1:
        text_of(dict.fromkeys(schema.names), f"--text {path}")
    return strings[0]


class _Parquet:
    """A Parquet file by its row groups."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet

        self._file = pyarrow.parquet.ParquetFile(path)
        self.schema, self.groups = self._file.schema_arrow, self._file.num_row_groups

    def batches(self, group: int, column: str, rows: int) -> Iterator[Any]:
        return self._file.iter_batches(batch_size=rows, row_groups=[group], columns=[column])


class _Arrow:
    """An Arrow or Feather file, or a stream as `datasets` writes it, by its record batches."""

    def __init__(self, path: Path) -> None:
        import pyarrow

        source = pyarrow.memory_map(str(path))
        try:
            file = pyarrow.ipc.open_file(source)
            self._parts: Any = [file.get_batch(i) for i in range(file.num_record_batches)]
            self.schema = file.schema
        except pyarrow.ArrowInvalid:
            source.seek(0)
            stream = pyarrow.ipc.open_stream(source)
            self.schema, self._parts = stream.schema, list(stream)  # mapped, and not read yet
        self.groups = len(self._parts)

    def batches(self, group: int, column: str, rows: int) -> Iterator[Any]:
        part = self._parts[group].select([column])
        for start in range(0, part.num_rows, rows):
            yield part.slice(start, rows)
