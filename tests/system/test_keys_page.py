"""docs/keys.md names every file of a run folder, and every key of its log and its result."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.system.tiny_run import tiny
from topk_ortho import train

PAGE = Path(__file__).resolve().parents[2] / "docs" / "keys.md"
GROUPS = ("parent", "child", "independent")


def named() -> set[str]:
    """Every name in the first columns of the page's tables, `f1_*` for each of its groups."""
    rows = re.findall(r"^\| (`.*?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    names = {name.rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)}
    return names | {n.replace("*", group) for n in names if n.endswith("*") for group in GROUPS}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "run"
    config = tiny("--steps", "12", "--evaluate-every", "10", "--pairs.track-memory",
                  "--with-baseline")  # fmt: skip
    train(config, folder, progress=False)
    return folder


def test_every_key_is_explained(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((run / "result.json").read_text())
    held_out = {key for line in lines for key in line.get("held_out", {})}
    keys = {key for line in lines for key in line} | set(result) | held_out
    assert keys - named() == set()


def test_every_file_is_named(run: Path) -> None:
    assert {path.name for path in run.iterdir()} - named() == set()
