"""One whole training step: ours with the penalty, without it and without the history, and others'.

`python benches/step.py` takes about five minutes. Every arm is its own process, and they take
turns. Two settings: `kept` (freed memory is kept, `OMP_WAIT_POLICY=passive`) and `default` (nothing
is set but what each program sets by itself). SAELens and dictionary_learning take part where
`make bench-peers` has built `.venv-peers`; they train without any penalty.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from machine import (
    CORES,
    HERE,
    KEEP_MEMORY,
    Row,
    parser,
    plain_environment,
    row,
    show,
    write,
)
from workers import Worker, serve
from workload import QUICK, REFERENCE, Size, activations

# isort: split
import torch
from batches import in_memory
from torch import Tensor

from topk_ortho.config import HistoryConfig, PairsConfig, SAEConfig, TrainConfig
from topk_ortho.training.state import TrainState
from topk_ortho.training.step import train_step

PEERS_PYTHON = HERE.parent / ".venv-peers" / "bin" / "python"
ON, PER_FEATURE = "ours, penalty on (0.1 % of pairs)", "ours, penalty on (2.5 per feature)"
BFLOAT16 = "ours, penalty on, bfloat16 products"
NO_HISTORY, OFF = "ours, penalty on, history off", "ours, penalty off"
OURS = {
    "on": ON,
    "per-feature": PER_FEATURE,
    "no-history": NO_HISTORY,
    "off": OFF,
    "bfloat16": BFLOAT16,
}
PEERS = {
    "saelens": "SAELens, no penalty",
    "saelens-sparse": "SAELens, sparse activations, no penalty",
    "dictionary-learning": "dictionary_learning, no penalty",
}
HISTORY_ENTRIES = 2**20


def configuration(arm: str, size: Size, device: str) -> TrainConfig:
    """Ours; `dead_after` is beyond the end, as it is for the others."""
    pairs = PairsConfig(fraction=0.001)
    if arm == "per-feature":
        pairs = PairsConfig(per_feature=2.5)
    elif arm == "off":
        pairs = PairsConfig(criterion="none")
    return TrainConfig(
        steps=100_000,
        batch_size=size.batch,
        lr=3e-4,
        device=device,
        sae=SAEConfig(
            kind="topk",
            d_sae=size.d_sae,
            k=float(size.l0),
            dead_after=10_000,
            bf16_prefilter=arm == "bfloat16",
        ),
        pairs=pairs,
        history=HistoryConfig(enabled=arm != "no-history", capacity=HISTORY_ENTRIES),
    )


def fresh(arm: str, size: Size, batches: list[Tensor], device: str) -> TrainState:
    """A state at step 0 on these batches."""
    config = configuration(arm, size, device)
    return TrainState.fresh(config, in_memory(batches), torch.device(device))


def work(arguments: argparse.Namespace, size: Size) -> None:
    """Be a worker."""
    torch.set_num_threads(arguments.threads)
    batches = activations(size, batches=4)
    state = fresh(arguments.worker, size, batches, arguments.device)
    batches = [x.to(arguments.device) for x in batches]
    serve(
        lambda number: train_step(state, batches[number % len(batches)]),
        warmup=arguments.warmup,
        device=arguments.device,
    )


def workers(arguments: argparse.Namespace, size: Size, *, keep: bool) -> list[Worker]:
    """Start every arm in one setting."""
    environment = plain_environment()
    if keep:
        environment |= KEEP_MEMORY | {"OMP_WAIT_POLICY": "passive"}
    options = ["--size", json.dumps(vars(size)), "--threads", str(arguments.threads)]
    options += ["--warmup", str(arguments.warmup), "--device", arguments.device]
    arms = ["on", "off"] if arguments.quick else list(OURS)
    out = [
        Worker(OURS[arm], [sys.executable, str(HERE / "step.py"), "--worker", arm, *options],
               environment | {"OMP_WAIT_POLICY": "passive"})
        for arm in arms
    ]  # fmt: skip
    if not keep:
        environment.pop("OMP_WAIT_POLICY", None)
    if peers_built(arguments):
        command = [str(PEERS_PYTHON), str(HERE / "peers.py"), "--worker"]
        out += [Worker(title, [*command, name, *options], environment)
                for name, title in PEERS.items()]  # fmt: skip
    return out


def peers_built(arguments: argparse.Namespace) -> bool:
    """Returns whether the others take part."""
    return PEERS_PYTHON.exists() and not arguments.quick


def compare(arguments: argparse.Namespace, size: Size, *, keep: bool) -> list[Row]:
    """One row per arm, with the medians of its rounds; half as many rounds where none is kept."""
    started = workers(arguments, size, keep=keep)
    try:
        for worker in started:
            worker.wait()
        for _ in range(arguments.rounds if keep else -(-arguments.rounds // 2)):
            for worker in started:
                worker.round(arguments.steps)
        rows = []
        for worker in started:
            seconds = [s for part in worker.seconds for s in part]
            rounds = [sorted(part)[len(part) // 2] * 1e3 for part in worker.seconds]
            rows.append(
                row(worker.name, seconds, threads=arguments.threads, rounds=rounds,
                    peak_mb=worker.peak_mb())
            )  # fmt: skip
        return rows
    finally:
        for worker in started:
            worker.close()


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=CORES)
    options.add_argument("--rounds", type=int, default=0, help="turns of every arm")
    options.add_argument("--steps", type=int, default=3, help="steps in one turn")
    options.add_argument("--warmup", type=int, default=0, help="steps before the first turn")
    options.add_argument("--worker", choices=OURS, help=argparse.SUPPRESS)
    options.add_argument("--size", default="", help="JSON: d_sae, d_in, batch, l0")
    arguments = options.parse_args(argv)
    cuda = arguments.device != "cpu"
    size = QUICK if arguments.quick else Size(batch=4096, l0=64) if cuda else REFERENCE
    if arguments.size:
        size = Size(**json.loads(arguments.size))
    # On CPU so many that the history is full; elsewhere kernels are chosen in the first steps.
    arguments.warmup = arguments.warmup or (2 if arguments.quick else 10)
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 7)
    if arguments.worker:
        work(arguments, size)
        return
    settings = {"kept": True} if arguments.quick or cuda else {"kept": True, "default": False}
    sections = {name: compare(arguments, size, keep=keep) for name, keep in settings.items()}
    for title, rows in sections.items():
        show(f"training step, {title}", rows)
    facts = {
        "size": vars(size),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "k": size.k(),
        "steps": arguments.steps,
        "warmup": arguments.warmup,
        "history_entries": HISTORY_ENTRIES,
        "peers": peer_versions() if peers_built(arguments) else None,
        "settings": {"kept": KEEP_MEMORY | {"OMP_WAIT_POLICY": "passive"}, "default": {}},
    }
    if facts["peers"] is None:
        print("without SAELens and dictionary_learning: `make bench-peers` was not run")
    write("step" if not cuda else "step-cuda", arguments, facts=facts, sections=sections)


def peer_versions() -> dict[str, str]:
    """Versions of the others' packages."""
    done = subprocess.run(
        [str(PEERS_PYTHON), str(HERE / "peers.py"), "--versions"],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
