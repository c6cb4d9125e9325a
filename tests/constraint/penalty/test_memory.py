"""What a penalty over many pairs holds, forward and backward, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

K, D_SAE, D_IN = 200_000, 1000, 256
BLOCK = K * D_IN * 4

MEASURED = """
import ctypes, sys
from types import SimpleNamespace
import torch
from topk_ortho.constraint.penalty import OrthogonalityPenalty

def memory(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024

k, d_sae, d_in = map(int, sys.argv[1:4])
torch.set_num_threads(1)
penalty = OrthogonalityPenalty("mean-std", gradient="symmetric")
W = torch.randn(d_sae, d_in).requires_grad_()
i = torch.randint(0, d_sae - 1, (k,))
few = SimpleNamespace(i=i[:9], j=i[:9] + 1, score=torch.ones(9))
penalty(W, few).backward()  # what is loaded on first use
pairs = SimpleNamespace(i=i, j=i + 1, score=torch.ones(k))
ctypes.CDLL(None).malloc_trim(0)  # else freed memory is used again and hides the growth
open("/proc/self/clear_refs", "w").write("5")  # the peak starts from here
before = memory("VmRSS:")
if sys.argv[4] == "naive":
    rows = W / W.norm(dim=1, keepdim=True)
    loss = ((rows[pairs.i] * rows[pairs.j]).sum(1) - 0.1).relu().square().sum()
else:
    loss = penalty(W, pairs)
loss.backward()
print(memory("VmHWM:") - before)
"""


def growth(form: str) -> int:
    """Bytes by which a fresh process grows during one forward and backward pass."""
    if not sys.platform.startswith("linux") or not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("peak memory is read from /proc/self/status, which is Linux")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(K), str(D_SAE), str(D_IN), form],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_no_block_of_gathered_rows_is_ever_held() -> None:
    used = growth("package")
    assert used < BLOCK / 2, f"{used / 2**20:.0f} MiB against blocks of {BLOCK / 2**20:.0f} MiB"


def test_the_measurement_sees_such_a_block() -> None:
    assert growth("naive") > 2 * BLOCK
