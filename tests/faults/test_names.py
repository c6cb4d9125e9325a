"""What the file system allows as a name works, from training to the report."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.system.tiny_run import tiny
from topk_ortho.cli import main
from topk_ortho.training import resume, train


@pytest.mark.fault("a file name that is not UTF-8")
def test_a_run_on_and_in_folders_of_any_name(tmp_path: Path, capfd) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9\nx")
    folder.mkdir()
    np.save(folder / os.fsdecode(b"\xff.npy"), np.random.default_rng(0).normal(size=(2000, 24)))
    config = replace(tiny("--steps", "20"), activations="files", data=folder)
    train(config, folder / "run", progress=False)
    assert resume(folder / "run", progress=False)["steps"] == 20
    assert main(["evaluate", str(folder / "run"), "--out", str(folder / "e.json")]) == 0
    assert main(["report", str(folder / "run")]) == 0
    assert "caf\\udce9\\nx/run" in capfd.readouterr().out
