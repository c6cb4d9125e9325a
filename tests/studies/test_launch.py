"""Shards as jobs of submitit's local executor, where submitit is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import environment
from tests.studies.test_ablation import SHORT, WITHOUT
from tests.system.tiny_run import over
from topk_ortho import cli
from topk_ortho.config import ConfigError
from topk_ortho.studies.launch import submit

needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="submitit is not installed"
)


@pytest.mark.slow
@needs_submitit
def test_local_jobs_compute_the_shards(tmp_path: Path):
    import submitit

    where = environment()
    where["PYTHONPATH"] += os.pathsep + str(Path(submitit.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "topk_ortho.cli", "ablate", *over(SHORT, *WITHOUT, "--seeds", "1",
         "--out", "a", "--launcher", "submitit", "--cluster", "local", "--shards", "2")],
        cwd=tmp_path, env=where, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 local jobs are through" in done.stdout
    assert "against none" in done.stdout
    assert "2 of 2 runs are there already" in done.stderr
    planned = json.loads((tmp_path / "a" / "ablation.json").read_text())["runs"]
    for entry in planned:
        assert (tmp_path / "a" / entry["folder"] / "result.json").exists()


@needs_submitit
def test_what_submitit_refuses_is_one_sentence(tmp_path: Path):
    how = {"shards": 1, "folder": tmp_path / "jobs"}
    with pytest.raises(ConfigError, match="--cluster-option"):
        submit([], cluster="local", options=["timeout_mins=3"], **how)
    with pytest.raises(ConfigError, match="cannot be submitted"):
        submit([], cluster="slurm", **how)
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        submit([], cluster="local", options=["timeout_min"], **how)
    with pytest.raises(ConfigError, match="--shards 0"):
        submit([], shards=0, folder=tmp_path, cluster="local")


def test_without_submitit_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    out = ["--out", str(tmp_path / "a")]
    assert cli.main(["ablate", *over(SHORT, *WITHOUT, *out, "--launcher", "submitit")]) == 2
    assert "pip install 'topk-ortho[cluster]'" in capsys.readouterr().err
