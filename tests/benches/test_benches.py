"""Every benchmark runs at tiny sizes, and its results become the page they are meant for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("pandas")

BENCHES = Path(__file__).resolve().parents[2] / "benches"
NAMES = ("pairs", "penalty", "curves", "step")


@pytest.fixture(scope="module", autouse=True)
def _benches_on_path() -> Iterator[None]:
    """Benches are programs: their modules find each other because they lie side by side."""
    before, threads = sys.modules.copy(), torch.get_num_threads()
    sys.path.insert(0, str(BENCHES))
    yield
    sys.path.remove(str(BENCHES))
    torch.set_num_threads(threads)
    for name in sys.modules.keys() - before.keys():
        if (BENCHES / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the JSON that every benchmark writes with `--quick`."""
    out = tmp_path_factory.mktemp("results")
    for name in NAMES:
        bench(name).main(["--quick", "--out", str(out)])
    return out


def bench(name: str) -> ModuleType:
    return import_module(name)


@pytest.mark.parametrize("name", NAMES)
def test_results_carry_machine_settings_medians_and_spread(results: Path, name: str) -> None:
    record = json.loads((results / f"{name}.json").read_text())
    machine = record["machine"]
    assert machine["cores"] >= 1
    assert machine["versions"]["torch"]
    assert machine["settings"]["OMP_WAIT_POLICY"]
    rows = [row for section in record["sections"].values() for row in section]
    assert rows
    assert all(0 < row["q1"] <= row["ms"] <= row["q3"] and row["calls"] > 1 for row in rows)


def test_quick_results_are_no_figures(results: Path) -> None:
    with pytest.raises(SystemExit, match="quick run"):
        bench("table").load(results)


def test_the_page_is_filled_between_its_marks(results: Path, tmp_path: Path) -> None:
    for name in NAMES:
        record = json.loads((results / f"{name}.json").read_text()) | {"quick": False}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    page = tmp_path / "performance.md"
    page.write_text("before\n<!-- figures: begin -->\nstale\n<!-- figures: end -->\nafter\n")
    arguments = ["--results", str(tmp_path), "--page", str(page)]
    bench("table").main(arguments)
    once = page.read_text()
    bench("table").main(arguments)
    assert page.read_text() == once
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert "stale" not in once
    assert "scipy.sparse" in once
    assert 10_000 < (tmp_path / "cost.svg").stat().st_size < 100_000


def test_a_target_is_met_or_missed_by_its_ratio() -> None:
    targets = bench("targets")

    def met(scipy_ms: float) -> bool | None:
        section = [{"name": "ours", "ms": 2.0}, {"name": "scipy.sparse", "ms": scipy_ms}]
        record = {"facts": {"entries": 10**6}, "sections": {"selection": section}}
        return targets.evaluate({"pairs": record})[1].met

    assert met(10.0) is True
    assert met(9.9) is False
    record = {"facts": {"entries": 10**6}, "sections": {}}
    assert targets.evaluate({"pairs": record})[1].met is None


def test_callables_take_turns() -> None:
    machine = bench("machine")
    seen: list[str] = []
    rivals = [
        machine.Rival("a", lambda: seen.append("a"), threads=1),
        machine.Rival("b", lambda given: seen.append(given), threads=1, setup=lambda: "b"),
        machine.Rival("slow", lambda: seen.append("s"), threads=1, rounds=1),
    ]
    rows = machine.interleave(rivals, rounds=3, warmup=2)
    assert "".join(seen) == "ab" + "abs" + "abs" + "ab" + "ab"
    assert [row["calls"] for row in rows] == [3, 3, 1]


def test_growth_sees_what_a_call_holds() -> None:
    machine = bench("machine")
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from /proc/self, which is Linux")
    used = max(machine.growth(lambda: torch.ones(8 * 2**20)) for _ in range(3))  # some reclaim
    assert 30e6 < used < 50e6


def test_the_gpus_pair_work_is_a_share_of_its_whole_step() -> None:
    targets = bench("targets")
    elsewhere = targets.evaluate({})[-1]
    assert elsewhere.measured.startswith("84 % (20.8 of 24.9 ms, NVIDIA H100")
    rows = [{"name": targets.ON, "ms": 5.0}, {"name": targets.OFF, "ms": 4.0}]
    record = {"facts": {"device": "a GPU"}, "sections": {"kept": rows}}
    row = targets.evaluate({"step-cuda": record})[-1]
    assert row.measured == "20 % (1 of 5 ms, a GPU)" and row.met is False
    rows[0]["ms"] = 4.5
    assert targets.evaluate({"step-cuda": record})[-1].met is True
