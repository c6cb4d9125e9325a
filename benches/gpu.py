"""The constraint on a GPU: host waits and operations of its pair work, and how long it takes.

`python benches/gpu.py --count` needs no GPU: it runs selection, penalty and history once at the
reference size on tensors that only pretend to be on one, counts operations and waits, and prints
them as its last line. Kernels are counted and not run; nothing that follows depends on their
numbers. Without `--count` it measures, a line of JSON for each part, the most important first, and
exits with 2 where torch sees no CUDA device.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from machine import HERE

sys.path.insert(0, str(HERE.parent))

# isort: split
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from workload import Size, activations, active, decoder

from topk_ortho import OrthogonalityPenalty, PairSelector
from topk_ortho.constraint.history import HistoryRecorder, PairHistory
from topk_ortho.sparse.codes import Codes

GPU_SIZE = Size(batch=4096, l0=64)
NO_GPU = 2
STARTED = time.perf_counter()
VIEWS = {
    "view",
    "_unsafe_view",
    "slice",
    "select",
    "unsqueeze",
    "squeeze",
    "expand",
    "alias",
    "t",
    "detach",
    "split_with_sizes",
    "unbind",
    "_to_copy",
    "lift_fresh",
    "as_strided",
}
"""Operations that launch nothing, or, a copy to another type, are part of the next one's cost."""


def reference(size: Size, to: Callable[[Tensor], Tensor]) -> tuple[Codes, Tensor, Tensor]:
    """Codes, decoder rows and firing rates of the reference size, on a device."""
    index, value = active(size, seed=0)
    index, order = index.sort(dim=1)
    row = torch.arange(size.batch).repeat_interleave(size.l0)
    parts = (row, index.flatten(), value.gather(1, order).flatten())
    codes = Codes.in_slots(*map(to, parts), batch=size.batch, d_sae=size.d_sae, per_row=size.l0)
    rate = torch.bincount(index.flatten(), minlength=size.d_sae) / size.batch
    return codes, to(decoder(size)), to(rate)


class PairWork:
    """Selection, penalty with its gradient, and history of one step."""

    def __init__(self, size: Size, to: Callable[[Tensor], Tensor]):
        self.codes, W, self.rate = reference(size, to)
        self.W = torch.nn.Parameter(W)
        self.select = PairSelector("coactivation", fraction=0.001, memory_budget=2**30)
        self.penalty = OrthogonalityPenalty()
        self.recorder = HistoryRecorder(PairHistory(capacity=2**20))
        self.step = 0

    def selection(self) -> Any:
        return self.select(self.codes)

    def __call__(self) -> None:
        self.W.grad = None
        pairs = self.selection()
        self.penalty(self.W, pairs, firing_rate=self.rate).backward()
        self.recorder.record_selection(self.step, pairs)
        self.step += 1


class Operations(TorchDispatchMode):
    """Counts operations of torch that are not views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._schema.name.split("::")[1] not in VIEWS
        return func(*args, **(kwargs or {}))


def count(size: Size) -> dict[str, int]:
    """Returns waits and operations of the pair work of a step after the first."""
    from tests.cuda import interpreted, pretend
    from topk_ortho.machine.spans import listening

    with (
        interpreted.interpreter(interpreted.only_count) as launches,
        pretend.Device(),
        listening(pretend.phases),
    ):
        work = PairWork(size, pretend.pretend)
        work.select._owners._looked = True  # no kernel ran, so there is no outcome to look at
        work()
        pretend.waits.clear()
        launches.clear()
        with Operations() as operations:
            work()
        found = sum(pretend.waits.values())
        work.recorder.close()
    return {"waits": found, "pair_operations": operations.count + sum(launches.values())}


def milliseconds(work: Callable[[], Any], *, repeats: int = 20) -> float:
    """Returns the median time of one call on the GPU."""
    for _ in range(5):
        work()
    torch.cuda.synchronize()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize()
    times = sorted(a.elapsed_time(b) for a, b in pairwise(marks))
    return times[repeats // 2]


def say(part: str, **figures: Any) -> None:
    print(json.dumps({"part": part, "at": round(time.perf_counter() - STARTED, 1), **figures}),
          flush=True)  # fmt: skip


def measure() -> None:
    """Measures on the GPU: atomics, pair work, then whole steps with and without the constraint."""
    from step import fresh

    from topk_ortho.training.step import train_step

    say("device", name=torch.cuda.get_device_name(), torch=torch.__version__)
    cells = torch.zeros(1056 * 16384, dtype=torch.int64, device="cuda")
    at = torch.randint(len(cells), (2**24,), device="cuda")
    ms = milliseconds(lambda: cells.index_add_(0, at, at))
    say("64-bit atomics of torch", billions_per_second=round(2**24 / ms / 1e6, 1))
    for size in (GPU_SIZE, Size(d_sae=65536, batch=4096, l0=64)):
        work = PairWork(size, Tensor.cuda)
        shape = vars(size) | {"k": size.k()}
        say("selection", ms=milliseconds(work.selection), path=work.selection().path, **shape)
        say("pair work", ms=milliseconds(work), **shape)
        work.select._owners._usable = False
        say("selection", ms=milliseconds(work.selection), path=work.selection().path, **shape)
        work.recorder.close()
    batches = activations(GPU_SIZE, batches=4)
    there = [x.cuda() for x in batches]
    for arm in ("off", "on", "per-feature"):
        state = fresh(arm, GPU_SIZE, batches, "cuda")
        ms = milliseconds(lambda state=state: train_step(state, there[state.step % 4]))  # type: ignore[misc]
        say("step", arm=arm, ms=ms, **vars(GPU_SIZE))
        state.close()


def main(argv: list[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    options.add_argument("--count", action="store_true", help="waits and operations; needs no GPU")
    if options.parse_args(argv).count:
        print(json.dumps(count(GPU_SIZE)))
        return 0
    if not torch.cuda.is_available():
        print("torch sees no CUDA device, so nothing was measured; --count needs none")
        return NO_GPU
    measure()
    return 0


if __name__ == "__main__":
    sys.exit(main())
