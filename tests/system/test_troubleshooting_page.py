"""The messages on the page of troubles are those that the package says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"


def said() -> str:
    """Every string of the package, with three dots in place of what is filled in."""
    found = []
    for path in (ROOT / "python" / "topk_ortho").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [
                    str(p.value) if isinstance(p, ast.Constant) else "..." for p in node.values
                ]
                found.append("".join(parts))
            elif isinstance(node, ast.ClassDef):
                found.append(node.name)
    return " ".join(" ".join(found).split())


def test_every_message_is_one_that_the_package_says() -> None:
    rows = re.findall(r"^\| (`.*?) \|", PAGE.read_text(encoding="utf-8"), re.M)
    assert len(rows) > 12
    text = said()
    missing = [
        piece
        for row in rows
        for message in re.findall(r"`([^`]+)`", row)
        for piece in map(str.strip, message.split("..."))
        if piece and piece not in text
    ]
    assert missing == []
