"""Tables of the terminal, and strings that must not act on it."""

from __future__ import annotations

import io

import pytest

from topk_ortho.terminal import aligned, printable, width

ROWS = [("name", "n", "note"), ("a", "10", "x"), ("long one", "9", "")]


def test_columns_are_as_wide_as_they_need() -> None:
    assert aligned(ROWS, sides="<><") == [
        "name       n  note",
        "------------------",
        "a         10  x",
        "long one   9",
    ]


def test_the_last_side_holds_for_what_follows() -> None:
    assert aligned(ROWS, rule=False) == ["name       n  note", "a         10     x", "long one   9"]
    assert aligned(ROWS, sides=">", rule=False, gap=1, indent=2)[1] == "         a 10    x"


@pytest.mark.parametrize("rows", [[], [()]])
def test_nothing_is_no_table(rows: list[tuple[str, ...]]) -> None:
    assert "".join(aligned(rows, rule=False)) == ""


def test_rows_of_other_lengths_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        aligned([("a", "b"), ("c",)])


def test_what_acts_on_a_terminal_is_spelled_out() -> None:
    assert printable("a\x1b[31m\n\u202e") == "a\\x1b[31m\\n\\u202e"


HEADER = ["arm", *(f"metric-{n}" for n in range(12))]
BODY = ["coactivation", *(f"0.{n:03d}" for n in range(12))]


@pytest.mark.parametrize(("columns", "tables"), [(80, 2), (110, 2), (200, 1), (None, 1), (1, 12)])
def test_a_table_is_as_wide_as_the_terminal(columns: int | None, tables: int) -> None:
    lines = aligned([HEADER, BODY], within=columns)
    assert columns == 1 or all(len(line) <= (columns or 1000) for line in lines)
    assert sum(line.startswith("arm ") for line in lines) == tables
    shown = " ".join(lines).split()
    assert all(shown.count(cell) == 1 for cell in HEADER[1:] + BODY[1:])


def test_the_width_is_that_of_a_terminal_or_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    assert width() == 110
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert width() is None
