"""The results page: its parts can be planned, share their runs, and write between marks."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.studies.test_ablation import PLANT, in_process  # noqa: F401  (a fixture)
from tests.system.tiny_run import tiny
from topk_ortho.config import ConfigError
from topk_ortho.studies.ablation import Request, _plan
from topk_ortho.studies.arms import ALWAYS_ON
from topk_ortho.studies.recipes import RECIPES

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benches" / "pages"))
import bars
import crowding
import results
from parts import FRESH, Material, Part, parts

sys.path.pop(0)

MATERIAL = Material("a-model", (Path("a.txt"),))
BASE = tiny("--checkpoint-every", "1000", "--sae.kind", "topk")


def request(name: str) -> Request:
    return parts()[name].request(MATERIAL, root=Path("nowhere"), jobs=1)


@pytest.mark.parametrize("name", parts())
def test_every_part_can_be_planned(name: str) -> None:
    plan = _plan(request(name))
    assert len(plan.runs) == len({run.hash for run in plan.runs})
    assert min(plan.seeds) >= 400, "reported seeds are fresh"


def test_the_page_has_what_it_has_to_have() -> None:
    for name in ("planted-6", "planted-12", "forest-240"):
        plan = _plan(request(name))
        assert {*ALWAYS_ON, "random", "matryoshka+constraint"} <= set(plan.arms)
        assert request(name).tune
    assert {"forest-240", "forest-240-topk", "forest-240-relu"} <= {
        name for name in parts() if len(_plan(request(name)).seeds) == FRESH
    }
    assert set(RECIPES) - {"baseline"} <= set(_plan(request("recipes")).arms)
    axes = {axis.option for name in ("l0", "cosine") for axis in _plan(request(name)).axes}
    assert axes == {"sae.k", "synthetic.parent-child-cosine"}


ABLATIONS = ["one", results.TOPK]


def tiny_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    two = [
        Part("one", "?", lambda m: BASE, 2, without_arm=ALWAYS_ON[1:]),
        Part(results.TOPK, "?", lambda m: BASE, 2, without_arm=("ortsae", "matryoshka")),
    ]
    monkeypatch.setattr(results, "parts", lambda: {part.name: part for part in two})


def skeleton(path: Path) -> Path:
    names = ("one", results.TOPK, "crowding")
    marks = [f"{results.BEGIN.format(n)}\nof yesterday\n{results.END.format(n)}" for n in names]
    path.write_text("# Mine\n\n" + "\n\nby hand\n\n".join(marks) + "\nthe end\n")
    return path


def test_parts_share_runs_and_write_what_stands_between_the_marks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_process: list[str],  # noqa: F811
) -> None:
    tiny_parts(monkeypatch)
    page, out = skeleton(tmp_path / "page.md"), tmp_path / "out"
    assert results.run_results(Material("", ()), out=out, jobs=1, page=page, only=ABLATIONS) == 0
    assert len(in_process) == len(set(in_process)) == 6, "none and default are computed once"
    text = page.read_text()
    assert text.startswith("# Mine") and text.endswith("the end\n") and "yesterday" not in text
    assert text.count("by hand") == 2 and text.count("Means over seeds 400, 401:") == 2
    assert "| rate-matched-random |" in text and "| oracle |" in text
    before = text
    results.run_results(Material("", ()), out=out, jobs=1, page=page, only=["one"])
    assert len(in_process) == 6
    assert page.read_text() == before


def test_a_part_of_no_such_name_and_a_model_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--only two"):
        results.run_results(MATERIAL, out=tmp_path, jobs=1, page=None, only=["two"])
    with pytest.raises(ConfigError, match="planted-6 need a language model"):
        results.run_results(Material("", ()), out=tmp_path, jobs=1, page=None, only=["planted-6"])


def test_a_page_without_marks_stays_as_it_is(tmp_path: Path, capsys) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here")
    results.write(page, "one", "text")
    assert page.read_text() == "nothing here"
    assert "has no marks" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--page"):
        results.write(tmp_path / "other.md", "one", "text")


def forest(rows: int = 64, n_true: int = 30, d_in: int = 48) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(
        torch.randn(n_true, d_in, generator=generator), dim=1
    )
    fired = torch.rand(rows, n_true, generator=generator) < 0.2
    fired[0] = False
    magnitude = fired * (1 + 0.2 * torch.randn(fired.shape, generator=generator))
    return magnitude @ directions, fired, directions


def test_the_oracle_is_exact_where_k_is_enough_and_never_worse_than_fewer() -> None:
    x, fired, directions = forest()
    most = int(fired.sum(1).max())
    assert torch.allclose(crowding.oracle(x, fired, directions, most), x, atol=2e-3)
    errors = [float((x - crowding.oracle(x, fired, directions, k)).pow(2).sum()) for k in (2, 4, 8)]
    assert errors[0] > errors[1] > errors[2] > 0
    few = fired.sum(1) <= 4
    found = crowding.oracle(x, fired, directions, 4)
    assert torch.allclose(found[few], x[few], atol=2e-3)


def test_groups_are_by_the_number_of_true_features(tmp_path: Path, in_process) -> None:  # noqa: F811
    assert crowding.groups(8) == ["up to 6", "7 to 8", "9 to 10", "11 to 12", "13 or more"]
    from topk_ortho.studies.ablation import run_ablation

    out = tmp_path / "a"
    base = replace(BASE, steps=20)
    run_ablation(Request(base=base, out=out, seeds=(1, 2), without_arm=ALWAYS_ON[1:]))
    (folders, _) = list(crowding._seeds(out))
    sums = crowding.measure(folders)
    assert int(sums.rows.sum()) == base.eval_samples
    figures = json.loads((folders["none"] / "result.json").read_text())
    assert sums.explained("none")[-1] == pytest.approx(figures["explained_variance"], abs=0.01)
    assert sums.explained(crowding.ORACLE)[-1] > sums.explained("none")[-1]


@pytest.mark.slow
def test_the_calibration_is_shown_as_it_was_printed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_process: list[str],  # noqa: F811
) -> None:
    """On files in place of a language model, which takes a minute."""
    np.save(tmp_path / "a.npy", np.random.default_rng(0).standard_normal((3000, 24), np.float32))
    base = replace(BASE, activations="files", data=tmp_path, sae=replace(BASE.sae, k=12.0))
    monkeypatch.setattr(results, "setting", lambda name, **_: replace(base, plant=PLANT))
    page = tmp_path / "page.md"
    marks = (results.BEGIN.format("calibrate"), results.END.format("calibrate"))
    page.write_text("\n".join(marks))
    out = tmp_path / "out"
    assert results.run_results(MATERIAL, out=out, jobs=1, page=page, only=["calibrate"]) == 0
    text = page.read_text()
    assert "At L0 12 (yours): " in text and "stand-in" in text and str(tmp_path) not in text
    assert len(in_process) == 3 * 2 * 3
    assert {p.name for p in (out / "runs").iterdir() if p.is_dir()} == set(in_process)


def test_the_bars_of_a_setting_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bars, "setting", lambda name, **_: BASE)
    arguments = ["forest-240", "--seeds", "1", "--arms", "none", "default"]
    assert bars.main([*arguments, "--out", str(tmp_path)]) in (0, 1)
    shown = capsys.readouterr().out
    assert "forest-240, means over seeds 1" in shown
    assert shown.count("met   ") + shown.count("MISSED") == len(bars.BARS["forest-240"]) + 1
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="the setting forest-1"):
        bars.main(["forest-1"])
