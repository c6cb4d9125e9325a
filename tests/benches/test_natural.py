"""The study of natural features: its text is cut by documents, its tables are paired by seed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

BENCHES = Path(__file__).resolve().parents[2] / "benches"
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def natural() -> Iterator[ModuleType]:
    before = sys.modules.copy()
    sys.path.insert(0, str(BENCHES))
    yield import_module("natural")
    sys.path.remove(str(BENCHES))
    for name in sys.modules.keys() - before.keys():
        if (BENCHES / f"{name}.py").exists():
            del sys.modules[name]


def test_the_text_is_cut_by_documents_once(natural: ModuleType, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"document {n}" for n in range(25)))
    out = tmp_path / "out"
    out.mkdir()
    files = natural.cut([text], out)
    assert files["training"].read_text().split("\n\n")[-1] == "document 22\n"
    assert files["held-out"].read_text().splitlines()[::2] == ["document 23", "document 24"]
    files["training"].write_text("kept")
    assert natural.cut([text], out)["training"].read_text() == "kept"


def run(label: str, seed: int, excess: float | None) -> dict[str, object]:
    return {"label": label, "seed": seed, "part": {"excess": excess}}


def test_a_table_pairs_seeds_and_leaves_out_what_is_unknown(natural: ModuleType) -> None:
    runs = [run("none", 1, 0.3), run("none", 2, 0.5), run("default", 1, 0.1)]
    runs += [run("default", 2, 0.3), run("other", 1, None), run("other", 2, None)]
    header, _, none, default, against, other, nothing = natural.table(runs, "part", ["excess"])
    assert header.split() == ["part", "seeds", "excess"]
    assert none.split() == ["none", "2", "0.4000"]
    assert default.split() == ["default", "2", "0.2000"]
    assert against.split() == ["against", "none", "-0.2000", "[-0.2000,", "-0.2000]"]
    assert other.split() == ["other", "2", "-"]
    assert nothing.split() == ["against", "none", "-"]


def test_what_is_compared_of_an_sae(natural: ModuleType) -> None:
    seen = {"eligible": True, "recall_without_child": 0.8, "excess": 0.5}
    edge = {"parent": 0, **seen}
    rare = {"parent": 2, **seen, "recall_without_child": 0.3}
    thin = {"parent": 1, "eligible": False, "excess": None}
    record = {
        "absorption": {
            "summary": {"absorption_rate": 0.5, "base_miss": 0.2, "excess": 0.3},
            "edges": [edge, edge | {"excess": 0.1}, thin, rare],
        },
        "parents_f1": 0.4,
        "figures": {"explained_variance": 0.9, "l0": 20.0, "dead_features": 0.1},
    }
    found = natural.of_classes(record)
    assert (found["excess"], found["ce_score"], found["parents_f1"]) == (0.3, None, 0.4)
    assert (found["found"], found["excess_of_found"]) == (1, pytest.approx(0.3))


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is absent")
def test_the_whole_study_at_a_tiny_size(
    natural: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--quick", "--model", str(DATA / "stories260k"), "--out", str(tmp_path / "out"),
                 "--text", str(DATA / "text" / "stories.txt")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["natural", *arguments])
    natural.main()
    printed = capfd.readouterr().out
    assert "matryoshka+constraint" in printed
    natural.main()  # computes nothing again
    assert "training step" not in capfd.readouterr().out
    assert (tmp_path / "out" / "natural.json").is_file()
