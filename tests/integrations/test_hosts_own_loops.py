"""In every host's own loop the selected pairs overlap less with the constraint than without it.

The loops are those of `benches/drop_ins.py`, on fewer activations of the same language model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.standalone import host
from topk_ortho.integrations import OrthogonalityConfig

for package in ("sae_lens", "dictionary_learning", "sparsify"):
    host(package)

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The benchmark as a module, beside the modules that it imports."""
    sys.path.insert(0, str(ROOT / "benches"))
    yield import_module("drop_ins")
    sys.path.remove(str(ROOT / "benches"))


@pytest.fixture(scope="module")
def data(bench: Any) -> Any:
    return bench.harvest(DATA, bench.QUICK)


@pytest.mark.parametrize(
    "name", ["SAELens", "dictionary_learning", "sparsify", "sparsify, transcoder"]
)
def test_the_selected_pairs_overlap_less_and_the_reconstruction_holds(
    bench: Any, data: Any, name: str
) -> None:
    train = bench.HOSTS[name]
    without = train(data, bench.QUICK, None)
    with_it = train(data, bench.QUICK, OrthogonalityConfig(steps=bench.QUICK.steps))
    assert bench.overlap(with_it) < 0.8 * bench.overlap(without)
    assert with_it.explained > without.explained - 0.05


def test_steps_can_be_timed(bench: Any, data: Any) -> None:
    spent = bench.costs(data, bench.QUICK, rounds=3)
    assert len(spent) == 5
    assert all(ms["without"] > 0 for ms in spent.values())
