"""The quickstart notebook runs as it stands, and shows what its text says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTEBOOK = json.loads((DOCS / "quickstart.ipynb").read_text(encoding="utf-8"))


def cells(kind: str) -> list[str]:
    return ["".join(c["source"]) for c in NOTEBOOK["cells"] if c["cell_type"] == kind]


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names that its cells leave behind, run in order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("notebook"))
        patch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("runs")))
        names: dict[str, Any] = {"__name__": "__main__"}
        for number, source in enumerate(cells("code")):
            exec(compile(source, f"quickstart.ipynb, code cell {number}", "exec"), names)
        return names


def test_both_arms_are_healthy_and_the_constraint_removes_absorption(after):
    none, constrained = after["baseline"], after["constrained"]
    for arm in (none, constrained):
        assert after["health"](arm) is None
    assert constrained["absorption_rate"] < 0.5 * none["absorption_rate"]
    assert constrained["excess"] < 0.6 * none["excess"]
    assert constrained["explained_variance"] > none["explained_variance"] - 0.015


def test_some_pairs_are_parents_and_children(after):
    assert len(after["found"].pairs) == 8
    assert any("parent" in (pair.relation or "") for pair in after["found"].pairs)


def test_the_meter_sees_the_same_in_codes_made_by_hand(after):
    excess = {name: result.summary()["excess"] for name, result in after["measured"].items()}
    assert excess["row-coactivation"] < 0.6 * excess["none"]
    edges = after["measured"]["none"].edges
    assert len(edges) == 24
    assert sum(edge.eligible for edge in edges) >= 20


def test_the_sae_reconstructs_what_it_reads(after):
    assert after["x_hat"].shape == after["held_out"].x.shape
    expected = after["constrained"]["explained_variance"]
    assert float(1 - after["error"]) == pytest.approx(expected, abs=0.01)


def test_nothing_is_left_of_an_earlier_run():
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([\w.]+)\)", "\n".join(cells("markdown")))
    assert len(links) >= 3
    assert all((DOCS / link).is_file() for link in links)
