"""All recipes in one command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from topk_ortho.cli import main
from topk_ortho.studies import recipe_runs
from topk_ortho.studies.recipes import RECIPES

SMALL = "--steps 4 --sae.d-sae 40 --sae.k 4 --batch-size 32 --eval-samples 600 --threads 1"
SMALL += " --buffer-rows 200"


def test_some_recipes_to_the_end_and_never_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("baseline", "gradient-batchwise")
    monkeypatch.setattr(recipe_runs, "RECIPES", {name: RECIPES[name] for name in names})
    command = ["recipes", "--out", str(tmp_path), *SMALL.split()]
    assert main(command) == 0
    shown = capsys.readouterr()
    for name in names:
        assert re.search(rf"^{name} +4 ", shown.out, re.MULTILINE)
        assert f"{name}: -m topk_ortho.train --config {tmp_path / name}.toml" in shown.err
    peaks = json.loads((tmp_path / "peaks.json").read_text())
    assert set(peaks) == set(names)
    assert main(command) == 0
    again = capsys.readouterr()
    assert again.out == shown.out
    assert "topk_ortho.train" not in again.err


def test_a_recipe_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recipe_runs, "RECIPES", {"baseline": RECIPES["baseline"]})
    (tmp_path / "baseline").mkdir()  # not a run folder, and in the way
    assert main(["recipes", "--out", str(tmp_path), *SMALL.split()]) == 1
    assert "baseline failed" in capsys.readouterr().out


def test_without_a_folder_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    assert set(RECIPES) <= set(capsys.readouterr().out.split())
