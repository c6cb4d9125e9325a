"""One selection at full width: the pairs of a brute force, within the memory budget."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.typing import NDArray

from topk_ortho import PairSelector

ROOT = Path(__file__).resolve().parents[3]
BATCH, D_SAE, L0 = 4096, 16_384, 64
FRACTION = 0.001
BUDGET = 64 * 2**20


def full_width_codes(*, levels: int) -> torch.Tensor:
    """`[BATCH, D_SAE]` CSR, L0 active per row, popular features first; `levels` 0: all distinct."""
    generator = torch.Generator().manual_seed(0)
    popularity = (torch.arange(D_SAE).double() + 50) ** -0.5
    popularity = popularity.expand(BATCH // 16, D_SAE)
    picked = [torch.multinomial(popularity, L0, generator=generator) for _ in range(16)]
    col = torch.cat(picked).sort(1).values
    value = torch.rand(col.shape, generator=generator) + 0.01
    if levels:
        value = (value * levels).ceil() / 4
    start = torch.arange(0, BATCH * L0 + 1, L0)
    return torch.sparse_csr_tensor(
        start, col.flatten(), value.flatten(), (BATCH, D_SAE), check_invariants=True
    )


def brute_force(
    acts: torch.Tensor, k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """All products in float64, rounded to float32, sorted by (-score, i, j)."""
    columns = (
        acts.values().double().numpy(),
        acts.col_indices().numpy(),
        acts.crow_indices().numpy(),
    )
    f = scipy.sparse.csr_matrix(columns, shape=tuple(acts.shape))
    product = scipy.sparse.triu(f.T @ f, 1, format="coo")
    score = product.data.astype(np.float32)
    least = np.partition(score, len(score) - k)[len(score) - k]
    i, j, score = (column[score >= least] for column in (product.row, product.col, score))
    order = np.lexsort((j, i, -score))[:k]
    return i[order], j[order], score[order]


@pytest.mark.parametrize("backend", ["auto", pytest.param("torch", marks=pytest.mark.slow)])
@pytest.mark.parametrize("levels", [0, 4], ids=["distinct", "ties"])
def test_selection_at_full_width_is_the_brute_force(levels: int, backend: str) -> None:
    acts = full_width_codes(levels=levels)
    select = PairSelector("coactivation", fraction=FRACTION, memory_budget=BUDGET, backend=backend)
    got = select(acts)
    assert len(got) == round(FRACTION * D_SAE * (D_SAE - 1) / 2) == 134_210
    i, j, score = brute_force(acts, len(got))
    if levels:
        assert len(np.unique(score)) < len(score) / 100  # ties all along, and at the k-th pair
    assert np.array_equal(got.score.numpy(), score)
    assert np.array_equal(got.i.numpy(), i)
    assert np.array_equal(got.j.numpy(), j)


MEASURED = """
import ctypes, sys
import torch
from tests.constraint.selection import test_memory as full
from topk_ortho import PairSelector
from topk_ortho.sparse.codes import Codes

def memory(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024

torch.set_num_threads(1)
PairSelector("coactivation", fraction=0.5, backend=sys.argv[3])(torch.eye(8))  # loads what it needs
acts = full.full_width_codes(levels=4)
acts = {"csr": lambda: acts, "codes": lambda: Codes.of(acts), "dense": acts.to_dense}[sys.argv[1]]()
select = PairSelector(
    "coactivation", fraction=full.FRACTION, memory_budget=full.BUDGET, backend=sys.argv[3]
)
ctypes.CDLL(None).malloc_trim(0)  # else freed memory is used again and hides the growth
open("/proc/self/clear_refs", "w").write("5")  # the peak starts from here
before = memory("VmRSS:")
held = int(sys.argv[2]) and torch.ones(int(sys.argv[2]), dtype=torch.uint8)
assert len(select(acts)) == 134_210
print(memory("VmHWM:") - before)
"""


def growth(kind: str, *, backend: str = "auto", besides: int = 0) -> int:
    """Bytes by which a fresh process grows during one selection, `besides` bytes held besides."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURED, kind, str(besides), backend],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.fixture(scope="module")
def _linux() -> None:
    if not sys.platform.startswith("linux") or not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("peak memory is read from /proc/self/status, which is Linux")


@pytest.mark.usefixtures("_linux")
@pytest.mark.parametrize("backend", ["auto", pytest.param("torch", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind", ["codes", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("csr", "dense"))]
)
def test_a_selection_stays_within_its_memory_budget(kind: str, backend: str) -> None:
    used = growth(kind, backend=backend)
    assert used <= BUDGET, f"{used / 2**20:.0f} MiB were used of {BUDGET / 2**20:.0f} MiB"


@pytest.mark.usefixtures("_linux")
def test_the_measurement_sees_what_is_held() -> None:
    assert growth("codes", besides=2 * BUDGET) > 2 * BUDGET
