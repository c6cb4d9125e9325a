"""The cost of chosen pairs: the penalty forward and backward, against other ways to the same loss.

`python benches/penalty.py` takes about two minutes. Freed memory is kept for everyone. Every pair
is above the threshold, so that none can be skipped; with random rows hardly one is, and that is
measured beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

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
from workload import QUICK, REFERENCE, Size, decoder, random_pairs

# isort: split
import torch
from pairs import codes_of
from torch import Tensor
from torch.nn import functional as F

from topk_ortho import OrthogonalityPenalty, PairSelector

THRESHOLD, COSINE, CHUNK = 0.1, 0.25, 8192
OURS, TORCH = "ours", "ours, torch alone"
GATHER, GATHER_BOTH = "gather + autograd", "gather + autograd, both rows move"
ORTSAE = "OrtSAE, chunks of 8,192"
Loss = Callable[[Tensor], Tensor]


def gather(pairs: SimpleNamespace, rate: Tensor, *, both: bool = False) -> Loss:
    """As one writes it: two gathered blocks `[k, d_in]` under autograd."""
    i_is_child = rate[pairs.i] < rate[pairs.j]
    child = torch.where(i_is_child, pairs.i, pairs.j)
    parent = torch.where(i_is_child, pairs.j, pairs.i)

    def loss(W_dec: Tensor) -> Tensor:
        rows = F.normalize(W_dec, dim=1)
        fixed = rows if both else rows.detach()
        cosine = (rows[child] * fixed[parent]).sum(1)
        return (cosine - THRESHOLD).relu().square().sum() / len(rows)

    return loss


def ortsae(W_dec: Tensor) -> Tensor:
    """Mean over features of the squared largest cosine within random chunks (OrtSAE, 2025)."""
    chunks = torch.randperm(len(W_dec)).chunk(-(-len(W_dec) // CHUNK))
    total = W_dec.new_zeros(())
    for chunk in chunks:
        rows = F.normalize(W_dec[chunk], dim=1)
        cosine = (rows @ rows.T).fill_diagonal_(-1.0)
        total = total + cosine.max(1).values.square().sum()
    return total / len(W_dec)


def ways(size: Size, pairs: SimpleNamespace, rate: Tensor) -> dict[str, Loss]:
    """Losses by name."""
    native = OrthogonalityPenalty(THRESHOLD)
    plain = OrthogonalityPenalty(THRESHOLD, backend="torch")
    return {
        OURS: lambda W_dec: native(W_dec, pairs, firing_rate=rate),
        TORCH: lambda W_dec: plain(W_dec, pairs, firing_rate=rate),
        GATHER: gather(pairs, rate),
        GATHER_BOTH: gather(pairs, rate, both=True),
        ORTSAE: ortsae,
    }


def problem(size: Size) -> tuple[SimpleNamespace, Tensor]:
    """The pairs that co-activation chooses at the reference fraction, and firing rates."""
    codes = codes_of(size)
    chosen = PairSelector("coactivation", per_feature=size.k() / size.d_sae)(codes)
    pairs = SimpleNamespace(i=chosen.i, j=chosen.j, score=chosen.score)
    return pairs, codes.counts() / codes.batch


def step(loss: Loss, W_dec: Tensor) -> None:
    """Forward and backward."""
    W_dec.grad = None
    loss(W_dec).backward()


def check(size: Size, pairs: SimpleNamespace, rate: Tensor, W_dec: Tensor) -> None:
    """The same loss and the same gradient, to rounding."""
    found = ways(size, pairs, rate)
    results = []
    for name in (GATHER, OURS, TORCH):
        step(found[name], W_dec)
        results.append((found[name](W_dec).detach(), W_dec.grad))
    for value, gradient in results[1:]:
        torch.testing.assert_close(value, results[0][0], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-3, atol=1e-6)


def compare(size: Size, *, cosine: float, rounds: int, others: bool) -> list[Row]:
    """Forward and backward of the penalty on the same pairs."""
    pairs, rate = problem(size)
    W_dec = decoder(size, cosine=cosine).requires_grad_()
    check(size, pairs, rate, W_dec)
    found = ways(size, pairs, rate)

    def timed(name: str) -> Callable[[], None]:
        return lambda: step(found[name], W_dec)

    rivals = [
        Rival(f"{OURS}, 1 thread", timed(OURS), threads=1),
        Rival(f"{OURS}, {CORES} threads", timed(OURS)),
        Rival(TORCH, timed(TORCH)),
    ]
    if others:
        rivals += [
            Rival(GATHER, timed(GATHER)),
            Rival(GATHER_BOTH, timed(GATHER_BOTH), rounds=min(rounds, 5)),
            Rival(ORTSAE, timed(ORTSAE), rounds=min(rounds, 3)),
        ]
    return interleave(rivals, rounds=rounds)


def memory(name: str, size: Size) -> int:
    """Bytes of one forward and backward pass beyond the gradient itself."""
    small = decoder(QUICK, cosine=COSINE).requires_grad_()
    for loss in ways(QUICK, *problem(QUICK)).values():
        step(loss, small)
    pairs, rate = problem(size)
    W_dec = decoder(size, cosine=COSINE).requires_grad_()
    loss = ways(size, pairs, rate)[name]
    used = growth(lambda: step(loss, W_dec))
    return max(0, used - W_dec.numel() * W_dec.element_size())


def main(argv: list[str] | None = None) -> None:
    arguments = parser(__doc__).parse_args(argv)
    quick = arguments.quick
    size = QUICK if quick else REFERENCE
    if arguments.memory:
        print(memory(arguments.memory, size))
        return
    if not quick:
        keep_memory("penalty.py")
    rounds = 2 if quick else 11
    sections = {
        "penalty": compare(size, cosine=COSINE, rounds=rounds, others=True),
        "penalty_random_rows": compare(size, cosine=0.0, rounds=rounds, others=False),
    }
    for r in sections["penalty"]:
        name = OURS if r["name"].startswith(f"{OURS}, 1") else r["name"]
        if name in (OURS, TORCH, GATHER, GATHER_BOTH, ORTSAE) and not quick:
            r["extra_mb"] = growth_alone("penalty.py", name)
    for title, rows in sections.items():
        show(title, rows)
    facts = {"size": vars(size), "k": len(problem(size)[0].i), "cosine": COSINE, "cores": CORES}
    write("penalty", arguments, facts=facts, sections=sections)


def one_loss(size: Size, k: int) -> Callable[[], None]:
    """Forward and backward of our penalty on `k` random pairs, for the cost curves."""
    pairs = random_pairs(size, k)
    rate = torch.rand(size.d_sae, generator=torch.Generator().manual_seed(0))
    W_dec = decoder(size, cosine=COSINE).requires_grad_()
    loss = ways(size, pairs, rate)[OURS]
    return lambda: step(loss, W_dec)


if __name__ == "__main__":
    main()
