"""Documents read from any place are those of one pass, whatever holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from topk_ortho.activations import documents
from topk_ortho.activations.documents import Document, Files
from topk_ortho.activations.hub import Dataset
from topk_ortho.activations.text import text_documents
from topk_ortho.config import ConfigError

TEXTS = [f"story {i} é " + "word " * (i % 7) + "end" for i in range(300)]


def plain(folder: Path) -> Path:
    path = folder / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\n\n \n".join(TEXTS).encode())
    return path


def lines(folder: Path) -> Path:
    path = folder / "a.jsonl"
    rows = [json.dumps({"id": i, "text": text}) for i, text in enumerate(TEXTS)]
    path.write_text("\n".join(rows) + "\n\n")
    return path


def parquet(folder: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = folder / "a.parquet"
    table = pyarrow.table({"id": list(range(300)), "story": TEXTS})
    parquet.write_table(table, path, row_group_size=110)
    return path


def arrow(folder: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    path = folder / "a.arrow"
    table = pyarrow.table({"text": TEXTS})
    with pyarrow.ipc.new_stream(str(path), table.schema) as file:
        file.write_table(table, max_chunksize=90)
    return path


def feather(folder: Path) -> Path:
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    import pyarrow
    from pyarrow import feather

    feather.write_feather(pyarrow.table({"text": TEXTS}), folder / "a.feather")
    return folder / "a.feather"


KINDS = [plain, lines, parquet, arrow, feather]


def all_of(groups: Any) -> list[str]:
    return [document.text for group, _ in groups for document in group]


@pytest.mark.parametrize("make", KINDS)
def test_all_kinds_hold_the_same_texts(make, tmp_path: Path) -> None:
    assert list(text_documents([make(tmp_path)])) == TEXTS


@pytest.mark.parametrize("make", KINDS)
def test_reading_goes_on_from_any_place(make, tmp_path: Path) -> None:
    path = make(tmp_path)
    files = Files([path, path])
    groups = list(files.read())
    assert len(groups) >= 4 and all_of(groups) == 2 * TEXTS
    for number, (_, place) in enumerate(groups):
        stored = json.loads(json.dumps(place))
        assert all_of(files.read(stored)) == all_of(groups[number + 1 :])


def pieces(text: str, folder: Path) -> tuple[list[Document], Files]:
    (folder / "long.txt").write_bytes(text.encode())
    files = Files([folder / "long.txt"], longest=100)
    return [document for group, _ in files.read() for document in group], files


@pytest.mark.parametrize(
    "text",
    [
        "a line of words\n" * 50 + "\n" + "b " * 300,
        "é" * 500,
        ("x" * 99 + "\n") * 3 + "\n\nend",
        "one\n\ntwo\n" + "word " * 90 + "\n\n\nthree\n",
        "日本語 " * 200 + "\n\n" + "語" * 333,
    ],
)
def test_a_long_document_is_cut_and_nothing_is_lost(text: str, tmp_path: Path) -> None:
    found, files = pieces(text, tmp_path)
    assert max(len(document.text.encode()) for document in found) <= 210
    whole: list[str] = [""]
    for document in found:
        whole[-1] += document.text
        whole += [""] if document.ends else []
    assert whole.pop() == ""
    whole = [document.rstrip("\n") for document in whole]  # of a cut at the last line
    assert whole == list(text_documents([tmp_path / "long.txt"]))
    groups = list(files.read())
    for number, (_, place) in enumerate(groups):
        rest = [d for group, _ in files.read(place) for d in group]
        assert rest == [d for group, _ in groups[number + 1 :] for d in group]


@pytest.mark.fault("a file that is not text")
def test_an_error_far_into_a_file_is_placed_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"some words\n\n" * 20_000 + b"\xff")
    files = Files([path])
    _, place = next(iter(files.read()))
    with pytest.raises(ConfigError, match=r"byte 240,000 \(line 40,001\)"):
        list(files.read(place))


@pytest.mark.fault("records that cannot be used")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "a"}\n{"text": ', r"line 2 of --text .*a\.jsonl is not JSON"),
        ('["text"]\n', "line 1 .* is a list, but a JSON object was expected"),
        ('{"q": "a", "r": "b"}\n', r"line 1 .* has the columns \['q', 'r'\]; expected one named"),
    ],
)
def test_lines_that_cannot_be_used(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=said):
        list(text_documents([tmp_path / "a.jsonl"]))


@pytest.mark.fault("records that cannot be used")
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_tables_that_cannot_be_used(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    (tmp_path / f"a{suffix}").write_bytes(b"no table" * 100)
    with pytest.raises(ConfigError, match=rf"--text .*a{suffix} cannot be read \("):
        list(text_documents([tmp_path / f"a{suffix}"]))


@pytest.mark.fault("records that cannot be used")
def test_a_table_without_text(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"a": ["x"], "b": ["y"]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"has the columns \['a', 'b'\]"):
        list(text_documents([tmp_path / "a.parquet"]))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'topk-ortho\[datasets\]'"):
        list(text_documents([tmp_path / "a.parquet"]))


def test_a_dataset_is_read_on_from_its_place(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    datasets.Dataset.from_dict({"text": TEXTS}).to_parquet(str(tmp_path / "train.parquet"))
    data = Dataset(str(tmp_path))
    groups = list(data.read())
    assert all_of(groups) == TEXTS
    place = json.loads(json.dumps(groups[1][1]))
    assert next(iter(data.read(place)))[0] == groups[2][0]
    assert all_of(data.read(place)) == TEXTS[2 * documents.GROUP :]
