"""Wide dictionaries train on an ordinary machine: 65,536 and 1,048,576 features."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import environment
from tests.system.tiny_run import words
from topk_ortho.checkpoint import store
from topk_ortho.machine.memory import memory_available
from topk_ortho.training import evaluation

GB = 10**9
RUN = """
import sys
from pathlib import Path
from topk_ortho.command_line import parse
from topk_ortho.training import evaluation, hardware, train
hardware.keep_freed_memory()
evaluation.LEAST_CALIBRATION_ROWS = 512
evaluation.CALIBRATION_CELLS = 2**29
train(parse(sys.argv[2:]).settings, Path(sys.argv[1]), progress=False)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(int(peak.split()[1]) * 1024)
"""
NEEDED = {65_536: 3 * GB, 1_048_576: 16 * GB}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["topk", "batch-topk"])
@pytest.mark.parametrize("d_sae", NEEDED)
def test_a_wide_dictionary_trains(d_sae: int, kind: str, tmp_path: Path) -> None:
    available = memory_available(torch.device("cpu"))
    if available is None or available < NEEDED[d_sae]:
        pytest.skip(f"takes {NEEDED[d_sae] / GB:.0f} GB of memory")
    options = words(
        f"--sae.d-sae {d_sae} --sae.k 8 --sae.kind {kind} --synthetic.d-in 64 --batch-size 256 "
        "--steps 6 --warmup-steps 1 --log-every 1 --eval-samples 64 --threads 1 "
        "--pairs.per-feature 0.005 --sae.dead-after 3 --keep-checkpoints 1"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, str(tmp_path / "run"), *options],
        capture_output=True, text=True, env=environment(), check=False, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert len(events) == 6 and all(event["pairs"] > 0 for event in events)
    assert events[-1]["orthogonality"] > 0 and events[-1]["aux"] > 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["c_dec"] > 0 and result["rows"] == 64
    newest = store.newest(tmp_path / "run" / "checkpoints")
    assert newest is not None and newest.tensors["sae.W_dec"].shape == (d_sae, 64)
    assert int(done.stdout.splitlines()[-1]) < NEEDED[d_sae]


@pytest.mark.parametrize("d_sae", [256, 8192, 46_340, 65_536, 1_048_576])
def test_what_is_measured_at_the_end_is_bounded(d_sae: int) -> None:
    assert evaluation.rows_at_once(d_sae) * d_sae <= max(evaluation.CELLS_AT_ONCE, d_sae)
    sample = evaluation.geometry_sample(d_sae)
    assert (d_sae if sample is None else sample) * d_sae <= evaluation.GEOMETRY_CELLS
    assert (sample is None) == (d_sae <= 46_340)
