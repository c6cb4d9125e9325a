"""Choosing pairs: exact top-k of co-activation, top-k of many scores, and the history.

`python benches/pairs.py` takes about a minute and a half; the dense product is run only twice. The
history has a million entries, five with `--full`, which needs 4 GB and two minutes more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from machine import (
    CORES,
    Rival,
    Row,
    growth,
    growth_alone,
    interleave,
    keep_memory,
    parser,
    show,
    write,
)
from workload import QUICK, REFERENCE, Size, active, decoder

# isort: split
import histories
import numpy as np
import scipy.sparse as sp
import torch

from topk_ortho import PairSelector
from topk_ortho._core import TopK
from topk_ortho.sparse.codes import Codes

NATIVE, TORCH = "ours", "ours, torch alone"
SCIPY, DENSE = "scipy.sparse A.T @ A, argpartition", "dense torch acts.T @ acts, topk"


def codes_of(size: Size) -> Codes:
    """The batch as the package takes it."""
    index, value = active(size)
    row = torch.arange(size.batch).repeat_interleave(size.l0)
    return Codes.from_entries(
        row, index.flatten(), value.flatten(), batch=size.batch, d_sae=size.d_sae
    )


def scipy_select(codes: Codes, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The set of the k best in float32 sums, unordered: less than what is asked of ours."""
    A = sp.csr_matrix(
        (codes.value.numpy(), codes.col.numpy(), codes.crow.numpy()),
        shape=(codes.batch, codes.d_sae),
    )
    sums = sp.triu(A.T.tocsr() @ A, 1, format="coo")
    best = np.arange(sums.nnz)
    if sums.nnz > k:
        best = np.argpartition(sums.data, sums.nnz - k)[sums.nnz - k :]
    return sums.row[best], sums.col[best], sums.data[best]


def dense_select(acts: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Selection in a few lines of torch; `[d_sae, d_sae]` is formed."""
    sums = (acts.T @ acts).triu_(1)
    score, key = sums.flatten().topk(k, sorted=False)
    return key // sums.shape[1], key % sums.shape[1], score


def ways(codes: Codes, k: int, size: Size, *, dense: bool) -> dict[str, Callable[[], Any]]:
    """Selections of the same pairs, by name."""
    native = PairSelector("coactivation", per_feature=k / size.d_sae)
    plain = PairSelector("coactivation", per_feature=k / size.d_sae, backend="torch")
    out: dict[str, Callable[[], Any]] = {
        NATIVE: lambda: native(codes),
        TORCH: lambda: plain(codes),
        SCIPY: lambda: scipy_select(codes, k),
    }
    if dense:
        acts = codes.dense(slice(None))
        out[DENSE] = lambda: dense_select(acts, k)
    return out


def check(codes: Codes, k: int, size: Size) -> None:
    """Everyone has to find the same scores, up to the rounding of float32 sums."""
    native, plain, theirs = (call() for call in ways(codes, k, size, dense=False).values())
    for mine, other in ((native.i, plain.i), (native.j, plain.j), (native.score, plain.score)):
        assert torch.equal(mine, other)
    score = np.sort(theirs[2])[::-1][: len(native)]
    np.testing.assert_allclose(native.score.numpy(), score, rtol=1e-5)


def selection(size: Size, k: int, *, dense: bool, rounds: int) -> list[Row]:
    """Scores and selection of the k best pairs."""
    codes = codes_of(size)
    check(codes, k, size)
    calls = ways(codes, k, size, dense=dense)
    rivals = [
        Rival(NATIVE, calls[NATIVE], threads=1),
        Rival(f"{NATIVE}, all threads", ways(codes, k, size, dense=False)[NATIVE]),
        Rival(TORCH, calls[TORCH]),
        Rival(SCIPY, calls[SCIPY], threads=1),
    ]
    if dense:
        rivals.append(Rival(DENSE, calls[DENSE], rounds=2))
    return interleave(rivals, rounds=rounds)


def with_memory(rows: list[Row]) -> list[Row]:
    """The rows with what each takes on top of its input, where threads make no difference."""
    for r in rows:
        if "all threads" not in r["name"]:
            r["extra_mb"] = growth_alone("pairs.py", r["name"])
    return rows


def cosine_selection(size: Size, *, rounds: int) -> list[Row]:
    """`coactive-cosine`: the largest cosines of pairs that fire together."""
    codes, W_dec = codes_of(size), decoder(size)
    per_feature = size.k() / size.d_sae
    ours = [PairSelector("coactive-cosine", per_feature=per_feature) for _ in range(2)]
    plain = PairSelector("coactive-cosine", per_feature=per_feature, backend="torch")
    return interleave(
        [
            Rival(NATIVE, lambda: ours[0](codes, W_dec=W_dec), threads=1),
            Rival(f"{NATIVE}, all threads", lambda: ours[1](codes, W_dec=W_dec)),
            Rival(TORCH, lambda: plain(codes, W_dec=W_dec), rounds=min(rounds, 5)),
        ],
        rounds=rounds,
    )


def top_of_many(n: int, k: int, *, rounds: int) -> list[Row]:
    """The k best of n scores; warm: after as many other scores, when the threshold is known."""
    rng = np.random.default_rng(0)
    before, score = rng.random((2, n), dtype=np.float32)
    i = np.arange(n, dtype=np.int64)
    j = i + 1
    tensor = torch.from_numpy(score)

    def filled(first: np.ndarray | None) -> TopK:
        best = TopK(k)
        if first is not None:
            best.push(i, j, first)
            best.threshold()
        return best

    def push(best: TopK) -> float | None:
        best.push(i, j, score)
        return best.threshold()  # cuts back to the k best: their set, as argpartition gives it

    assert push(filled(None)) == np.partition(score, n - k)[n - k]
    return interleave(
        [
            Rival("ours, cold", push, threads=1, setup=lambda: filled(None)),
            Rival("ours, warm", push, threads=1, setup=lambda: filled(before)),
            Rival("numpy argpartition", lambda: np.argpartition(score, n - k), threads=1),
            Rival("torch.topk", lambda: tensor.topk(k, sorted=False)),
        ],
        rounds=rounds,
    )


def memory(name: str, size: Size) -> int:
    """Bytes that one selection at the reference fraction takes on top of its input."""
    small = codes_of(QUICK)
    for call in ways(small, 10, QUICK, dense=True).values():
        call()
    call = ways(codes_of(size), size.k(), size, dense=name == DENSE)[name]
    return growth(call)


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--entries", type=int, default=1_000_000, help="of the history's table")
    options.add_argument("--full", action="store_true", help="five million entries")
    arguments = options.parse_args(argv)
    size = QUICK if arguments.quick else REFERENCE
    if arguments.full:
        arguments.entries = 5_000_000
    if arguments.memory:
        print(memory(arguments.memory, size))
        return
    if not arguments.quick:
        keep_memory("pairs.py")
    run(arguments, size)


def run(arguments: argparse.Namespace, size: Size) -> None:
    """Everything, and the JSON."""
    quick = arguments.quick
    rounds = 2 if quick else 21
    few = 4 if quick else 2.5
    sections = {
        "selection": selection(size, size.k(), dense=True, rounds=rounds),
        "selection_per_feature": selection(
            size, round(few * size.d_sae), dense=False, rounds=rounds
        ),
        "selection_cosine": cosine_selection(size, rounds=rounds),
        "topk": top_of_many(
            100_000 if quick else 10_000_000, 1000 if quick else size.k(), rounds=rounds // 2 + 1
        ),
        "history": histories.compare(
            entries=5000 if quick else arguments.entries,
            k=500 if quick else REFERENCE.k(),
            d_sae=REFERENCE.d_sae,
        ),
    }
    if not quick:
        with_memory(sections["selection"])
    for title, rows in sections.items():
        show(title, rows)
    chosen = PairSelector("coactivation", per_feature=size.k() / size.d_sae)(codes_of(size))
    facts = {
        "size": vars(size),
        "cores": CORES,
        "k": len(chosen),
        "positive": chosen.positive,
        "k_per_feature": round(few * size.d_sae),
        "entries": 5000 if quick else arguments.entries,
    }
    write("pairs", arguments, facts=facts, sections=sections)


if __name__ == "__main__":
    main()
