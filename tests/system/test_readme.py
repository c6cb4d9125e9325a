"""The README: short, its code runs, and its figures are those of the pages they come from."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import environment
from topk_ortho import cli

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LIBRARY = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")


def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("picture", ROOT / "docs/site/picture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 130


def test_the_picture_shows_what_the_table_of_results_says() -> None:
    picture = drawing()
    rows = picture.measured()
    assert picture.PICTURE.read_text(encoding="utf-8") == picture.picture(rows)
    for _, absorption, variance in rows:
        for value in (absorption, variance):
            assert f"{value:.3f}".lstrip("0") in README


def test_the_table_has_the_figures_of_the_page_of_results() -> None:
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    section = results[results.index("## Planted in SmolLM2-135M") :]
    section = section[: section.index("Intervals are")]
    there = {number for line in section.splitlines() for number in re.findall(r"\.\d{3,}", line)}
    rounded = there | {f"{float(number):.3f}".lstrip("0") for number in there}
    table = README[README.index("## Does it work?") : README.index("The intervals of absorption")]
    shown = re.findall(r"\.\d{3}", table)
    assert len(shown) == 25
    assert set(shown) <= rounded


def test_what_is_said_of_natural_features_has_the_figures_of_the_page_of_results() -> None:
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    section = results[results.index("## Natural features of SmolLM2-135M") :]
    section = section[: section.index("\n## ")]
    there = [float(number) for number in re.findall(r"\.\d{2,}", section)]
    said = README[README.index("**On the model's own features**") : README.index("More arms:")]
    shown = re.findall(r"\.\d{2,}", said.replace("results.md", ""))
    assert len(shown) == 7
    for number in shown:
        digits = len(number) - 1
        assert any(f"{found:.{digits}f}".lstrip("0") == number for found in there), number


@pytest.mark.parametrize("page", [README, LIBRARY], ids=["README", "library"])
def test_its_python_runs(page: str, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(),
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_command_has_its_place() -> None:
    section = README[README.index("## Commands") : README.index("## Docs")]
    assert sorted(set(re.findall(r"`([a-z]+)`", section))) == cli.names()
