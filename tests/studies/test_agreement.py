"""`topk-ortho agreement`: which folders make an arm, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.stored_saes import stored
from topk_ortho import cli, formats
from topk_ortho.config import ConfigError
from topk_ortho.studies.agreement import arms_of


def saes(root: Path, *seeds: int) -> list[str]:
    """Folders of SAEs with random weights."""
    return [str(formats.write(stored("topk", seed=s), root / f"sae-{s}")) for s in seeds]


def test_the_table_and_the_file_hold_the_same(tmp_path: Path, capsys) -> None:
    out = tmp_path / "agreement.json"
    given = [*saes(tmp_path, 0, 1), str(tmp_path / "sae-0")]
    assert cli.main(["agreement", *given, "--draws", "2", "--out", str(out)]) == 0
    (found,) = json.loads(out.read_text())["arms"].values()
    assert found["mcc"][1] == pytest.approx(1)  # the first with itself
    assert found["mcc"][0] == pytest.approx(found["mcc"][2])
    assert (len(found["mcc"]), len(found["null_mcc"])) == (3, 2)
    said = capsys.readouterr().out
    assert f"{sum(found['mcc']) / 3:.3f}" in said
    assert "random rotation" in said


def test_an_ablation_is_grouped_by_arm_and_unfinished_runs_are_left_out(tmp_path: Path) -> None:
    runs = []
    for n, label in enumerate(("none", "none", "c2r", "c2r", "ortsae")):
        folder = tmp_path / "runs" / str(n)
        folder.mkdir(parents=True)
        if n != 3:
            (folder / "result.json").write_text("{}")
        runs.append({"label": label, "folder": f"runs/{n}"})
    (tmp_path / "ablation.json").write_text(json.dumps({"runs": runs}))
    assert arms_of([tmp_path]) == {"none": [tmp_path / "runs/0", tmp_path / "runs/1"]}
    (tmp_path / "ablation.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be read"):
        arms_of([tmp_path])


def test_one_sae_is_refused(tmp_path: Path, capsys) -> None:
    assert cli.main(["agreement", *saes(tmp_path, 0)]) == 2
    assert "two folders of SAEs" in capsys.readouterr().err
