"""Tables of the terminal, and strings that must not act on it."""

from __future__ import annotations

import pytest

from topk_ortho.terminal import aligned, printable

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
