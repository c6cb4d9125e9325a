"""The same command gives the same figures: whole runs in processes of their own, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import environment
from tests.system.tiny_run import OPTIONS, assert_same, over, tiny
from topk_ortho import OrthogonalityPenalty, PairHistory, PairSelector
from topk_ortho.machine import hardware
from topk_ortho.training import train

KINDS = ("topk", "batch-topk", "matryoshka", "relu", "jumprelu")


def in_a_process(folder: Path, *options: str, threads: int = 1) -> Path:
    """A whole run that is allowed so many threads."""
    done = subprocess.run(
        [sys.executable, "-m", "topk_ortho.train", *over(OPTIONS, *options, "--out", str(folder))],
        env=environment() | {"OMP_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(threads)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_a_whole_run_is_the_same_in_another_process_that_may_take_more_threads(
    tmp_path: Path,
) -> None:
    """A step this small takes one thread, whatever is allowed."""
    assert hardware.choose_threads(tiny(), 24) == 1
    assert_same(
        in_a_process(tmp_path / "one"),
        in_a_process(tmp_path / "other", threads=3),
    )


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[] if k == "batch-topk" else pytest.mark.slow) for k in KINDS],
)
def test_a_whole_run_is_the_same_beside_others_and_after_them(kind: str, tmp_path: Path) -> None:
    """Nothing is carried over from run to run in a process: no random state, no bar, no buffer."""
    config = tiny("--sae.kind", kind)
    train(config, tmp_path / "first", progress=False)
    torch.manual_seed(7)
    np.random.seed(7)
    train(tiny("--seed", "5", "--sae.d-sae", "80"), tmp_path / "between", progress=False)
    train(config, tmp_path / "second", progress=False)
    assert_same(tmp_path / "second", tmp_path / "first")


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has one number of threads")
def test_the_pairs_work_is_the_same_on_any_number_of_threads() -> None:
    """Selection, history, penalty and its gradient, at a size that is shared out."""
    generator = torch.Generator().manual_seed(0)
    values, places = torch.rand(256, 1024, generator=generator).topk(24)
    acts = torch.zeros(256, 1024).scatter_(1, places, values)
    start = torch.nn.functional.normalize(torch.randn(1024, 64, generator=generator))

    def work(threads: int) -> list[bytes]:
        torch.set_num_threads(threads)
        try:
            history, out = PairHistory(capacity=4000), []
            for criterion in ("coactivation", "coactive-cosine", "random"):
                W_dec = start.clone().requires_grad_()
                select = PairSelector(criterion, per_feature=2.5)
                needs = {"W_dec": W_dec.detach()} if "W_dec" in select.required_inputs else {}
                pairs = select(acts, step=0, **needs)
                penalty = OrthogonalityPenalty(tau=0.05)
                loss = penalty(W_dec, pairs, firing_rate=(acts > 0).float().mean(0))
                loss.backward()
                history.observe(len(out), pairs.i, pairs.j)
                for column in (pairs.i, pairs.j, pairs.score, loss.detach(), W_dec.grad):
                    out.append(column.numpy().tobytes())
            return [*out, history.to_bytes()]
        finally:
            torch.set_num_threads(1)

    assert work(1) == work(2) == work(5)
