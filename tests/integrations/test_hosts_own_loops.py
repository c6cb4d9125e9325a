"""In every host's own loop the selected pairs overlap less with the constraint than without it.

The loops are those of `benches/drop_ins.py`, on fewer activations of the same language model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.standalone import host

for package in ("sae_lens", "dictionary_learning", "sparsify"):
    host(package)

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the benchmark writes with `--quick`."""
    out = tmp_path_factory.mktemp("results")
    sys.path.insert(0, str(ROOT / "benches"))
    import_module("drop_ins").main(["--quick", "--data", str(DATA), "--out", str(out)])
    yield json.loads((out / "drop_ins.json").read_text())
    sys.path.remove(str(ROOT / "benches"))


@pytest.mark.parametrize(
    "name", ["SAELens", "dictionary_learning", "sparsify", "sparsify, transcoder"]
)
def test_the_selected_pairs_overlap_less_and_the_reconstruction_holds(
    results: dict[str, Any], name: str
) -> None:
    without, with_it = (row for row in results["effects"] if row["host"] == name)
    assert (without["constrained"], with_it["constrained"]) == (False, True)
    assert with_it["largest_cosine"] < 0.8 * without["largest_cosine"]
    assert with_it["explained_variance"] > without["explained_variance"] - 0.05


def test_every_trainers_step_is_timed(results: dict[str, Any]) -> None:
    assert len(results["costs"]) == 5
    assert all(ms["without"] > 0 for ms in results["costs"].values())
