"""The page of promises names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_holds_a_promise_exists():
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE))
    assert len(named) > 40
    for path, test in sorted(named):
        assert (ROOT / path).is_file(), path
        assert test in functions_of(ROOT / path), f"{path}::{test}"


def test_every_promise_has_its_test():
    sections = PAGE.split("<!-- faults: begin -->")[0]
    rows = [line for line in sections.splitlines() if line.startswith("| ")]
    promises = [
        row for row in rows if not row.startswith(("| ---", "| promise", "| given", "| what"))
    ]
    assert len(promises) > 30
    for row in promises:
        assert re.search(r"`tests/[\w/]+\.py::\w+`", row), row
