"""A source from outside the package, in one file: named, trained on, evaluated, watched."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.system.tiny_run import tiny
from topk_ortho.activations.kinds import Opened, SourceKind, register_source
from topk_ortho.activations.source import Block, Split
from topk_ortho.cli import main
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.rules import check
from topk_ortho.config.sources import SOURCES
from topk_ortho.inspect.evaluate.asked import understand
from topk_ortho.training import resume, train


class Ramp:
    """Blocks of 500 rows on two axes, as large as a file says."""

    truth = None
    d_in = 24

    def __init__(self, file: Path) -> None:
        self.size = float(file.read_text())

    def n_blocks(self, split: Split) -> int:
        return 8 if split == "train" else 2

    def where(self, index: int, split: Split, row: int) -> str:
        return f"row {row} of ramp {index}"

    def block(self, index: int, split: Split) -> Block:
        generator = torch.Generator().manual_seed(2 * index + (split == "eval"))
        return Block(self.size * torch.randn(500, self.d_in, generator=generator), None)


@pytest.fixture
def ramp(monkeypatch: pytest.MonkeyPatch) -> None:
    SOURCES.names()  # complete, so that what is added here goes away again
    monkeypatch.setattr(SOURCES, "_records", dict(SOURCES._records))
    register_source(
        SourceKind(
            "ramp",
            open=lambda config, device: Opened(Ramp(config.data)),
            files=lambda config: [config.data],
            options=frozenset({"data"}),
        )
    )


def test_a_source_from_outside_trains_resumes_and_is_evaluated(ramp, tmp_path, capsys):
    (tmp_path / "size").write_text("3")
    config = replace(tiny("--steps", "30"), activations="ramp", data=tmp_path / "size")
    result = train(config, tmp_path / "run", progress=False)
    assert result["variance"] == pytest.approx(5)
    assert result["scale"] == pytest.approx((5 / (9 * 24)) ** 0.5, rel=0.02)
    assert resume(tmp_path / "run", progress=False)["explained_variance"] is not None
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert list(manifest["data"]) == [str(tmp_path / "size")]
    assert manifest["loud_rows"]["variance_share"] < 0.1
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert "ramp" in capsys.readouterr().out


def test_a_run_on_it_is_evaluated_on_other_data_of_its_kind(ramp, tmp_path):
    for name, size in (("size", "3"), ("other", "5")):
        (tmp_path / name).write_text(size)
    config = replace(tiny("--steps", "30"), activations="ramp", data=tmp_path / "size")
    train(config, tmp_path / "run", progress=False)
    asked = understand(tmp_path / "run", {"data": tmp_path / "other"})
    assert (asked.config.activations, asked.config.data) == ("ramp", tmp_path / "other")
    assert (asked.split, asked.held_out) == ("all", False)
    asked = understand(tmp_path / "run", {"activations": "files", "data": tmp_path})
    assert asked.config.activations == "files"


def test_its_name_is_one_of_the_names(ramp, capsys):
    with pytest.raises(ConfigError, match="one of auto, synthetic, language-model, files, ramp"):
        check(replace(TrainConfig(), activations="rump"))
    assert main(["train", "--activations", "rump", "--steps", "1"]) == 2
    assert "perhaps you meant ramp" in capsys.readouterr().err
    assert SOURCES["language-model"].options >= {"model", "hook"}


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="files was registered, but there is one"):
        register_source(SourceKind("files", lambda config, device: Opened(Ramp(config.data))))
