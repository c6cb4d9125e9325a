"""A text file is plain UTF-8 text, or refused by name and position."""

from __future__ import annotations

import gzip
import io
import itertools
import json
from pathlib import Path

import pytest

from topk_ortho.activations import plain_text
from topk_ortho.activations.text import text_documents
from topk_ortho.config import ConfigError

STORY = "Once upon a time there was a fox.\n\nIt was quick and brown.\n" * 20


def documents(folder: Path, content: bytes, name: str = "a.txt") -> list[str]:
    (folder / name).write_bytes(content)
    return list(text_documents([folder / name]))


def naive(text: str) -> list[str]:
    """The documents of a text: what stands between blank lines."""
    found: list[list[str]] = [[]]
    for line in io.StringIO(text):
        if line.strip():
            found[-1].append(line)
        else:
            found.append([])
    return ["".join(lines).strip("\n") for lines in found if lines]


@pytest.mark.parametrize(
    "text",
    [
        STORY,
        "a\rb\r\rc",  # line ends of old
        "a\n\u3000\nb\n\xa0\n\nc",  # blank to Unicode
        " a\n\n\n b\n \n",
        "שלום עולם\n\nمرحبا بالعالم\n",  # right to left
        "日本語。\x0c\n\t表\n",
        "é" * 70_000,  # a character across the end of a piece
        "a\r\nb\r\n\r\nc\rd",
        "🙂 \u200f\ufffd\u0085",
    ],
)
def test_text_is_read_as_python_reads_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode())
    expected = (tmp_path / "a.txt").read_text(encoding="utf-8")
    assert list(text_documents([tmp_path / "a.txt"])) == naive(expected)


def test_a_mark_of_utf_8_is_no_text(tmp_path: Path) -> None:
    assert documents(tmp_path, b"\xef\xbb\xbfone\n\ntwo") == ["one", "two"]


@pytest.mark.fault("a file that is not text")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (STORY.encode("utf-16-le"), r"byte 1 \(line 1\) is the character 0x00 \(NUL, as in UTF-16"),
        (STORY.encode("utf-16-be"), r"byte 0 \(line 1\) is the character 0x00 \(NUL"),
        (STORY.encode("utf-32-le"), r"byte 1 \(line 1\) is the character 0x00 \(NUL"),
        (STORY.encode("utf-16"), "but UTF-16 by its first bytes"),
        (STORY.encode("utf-32"), "but UTF-32 by its first bytes"),
        ("日本".encode("shift-jis"), r"byte 0 \(line 1\) is not valid UTF-8"),
        ("文字".encode("iso2022_jp"), r"byte 0 \(line 1\) is the character 0x1b \(control\)"),
        (
            "fine\nthen é".encode("latin-1"),
            r"byte 10 \(line 2\) is not valid UTF-8 \(unexp",
        ),
        (
            b"x" * 70_000 + b"\n\xe2\x82",
            r"byte 70,001 \(line 2\) is not valid UTF-8 \(unexp",
        ),
        (
            b"x" * 65_535 + b"\xe2x" + b"\n" * 9,
            r"byte 65,535 \(line 1\) is not valid UTF-8 \(inv",
        ),
        ((STORY + "\x00").encode(), r"byte 1,180 \(line 61\) is the character 0x00"),
        (b"ok\n\nok \xed\xa0\x80", r"byte 7 \(line 3\) is not valid UTF-8"),  # half a pair
        (gzip.compress(STORY.encode(), mtime=0), "but gzip by its first bytes"),
        (b"PK\x03\x04rest", "but zip by"),
        (b"\x28\xb5\x2f\xfdrest", "but zstd by"),
        (b"PAR1rest", "but Parquet by"),
        (b"%PDF-1.7\n", "but PDF by"),
        (b"\x80\x04\x95pickled", r"byte 0 \(line 1\) is not valid UTF-8"),
    ],
)
def test_what_is_not_text_is_refused_where_it_begins(
    content: bytes, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"is not UTF-8 text, which was .*{said}"):
        documents(tmp_path, content)


@pytest.mark.fault("a file that is not text")
@pytest.mark.parametrize("suffix", [*plain_text.RECORDS, ".JSON"])
def test_files_of_records_are_refused_with_what_to_do(suffix: str, tmp_path: Path) -> None:
    record = json.dumps({"text": STORY}).encode()
    with pytest.raises(ConfigError, match=r"holds records; write each text as one line .* \.jsonl"):
        documents(tmp_path, record, f"a{suffix}")


@pytest.mark.fault("a file that is not text")
def test_json_lines_are_refused_whatever_the_file_is_called(tmp_path: Path) -> None:
    lines = b"\n".join(json.dumps({"text": text}).encode() for text in ("once", "upon"))
    with pytest.raises(ConfigError, match=r"not plain text.* JSON object per line.*\.jsonl"):
        documents(tmp_path, lines)
    assert list(documents(tmp_path, b'{"quoted" at the start}\nof a story'))


def test_a_long_file_is_read_as_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_text, "PIECE", 1000)
    (tmp_path / "a.txt").write_bytes(b"one two\n\n" * 1000 + b"\x00")
    some = list(itertools.islice(text_documents([tmp_path / "a.txt"]), 100))
    assert some == ["one two"] * 100
