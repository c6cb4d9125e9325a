"""The effect and cost of the constraint in other trainers, against the same without it.

`.venv-integrations/bin/python benches/drop_ins.py --data DIR` (after `make test-integrations`)
trains every host of `hosts.py` by its own loop, with and without, on activations of
`DIR/stories260k`, and compares on held-out text. Then it takes their training steps in turn, with,
without, and of the package's own trainer, on the same batches.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from hosts import (
    HOSTS,
    LAYER,
    LR,
    QUICK,
    Data,
    Setting,
    Trained,
    dictionary_trainer,
    harvest,
    saelens_trainer,
    sparsify_trainer,
)
from machine import keep_memory, parser, write

# isort: split
import torch
from batches import in_memory

from topk_ortho import PairSelector
from topk_ortho.config import PairsConfig, SAEConfig, TrainConfig
from topk_ortho.constraint.rows import codes_of_unit_rows
from topk_ortho.integrations import OrthogonalityConfig
from topk_ortho.sparse.codes import Codes
from topk_ortho.training.state import TrainState
from topk_ortho.training.step import train_step

Step = Callable[[int], Any]
WARMUP = 10
OWN = {"topk": "topk_ortho, TopK", "batch-topk": "topk_ortho, BatchTopK"}


def overlap(trained: Trained) -> float:
    """Mean over the features of the selected pairs of the largest cosine with a partner."""
    codes = codes_of_unit_rows(Codes.of(trained.acts), trained.W_dec)
    pairs = PairSelector("coactivation")(codes)
    unit = torch.nn.functional.normalize(trained.W_dec, dim=1)
    cosine = (unit[pairs.i] * unit[pairs.j]).sum(1)
    largest = torch.full((len(unit),), -torch.inf)
    for side in (pairs.i, pairs.j):
        largest.scatter_reduce_(0, side, cosine, "amax")
    return float(largest[largest.isfinite()].mean())


def effects(data: Data, setting: Setting) -> list[dict[str, Any]]:
    """Every host by its own loop, without and with the constraint."""
    rows = []
    for name, train in HOSTS.items():
        for constrained in (False, True):
            config = OrthogonalityConfig(steps=setting.steps) if constrained else None
            trained = train(data, setting, config)
            row = {
                "host": name,
                "constrained": constrained,
                "largest_cosine": overlap(trained),
                "explained_variance": trained.explained,
                "l0": float((trained.acts > 0).sum(1).float().mean()),
            }
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
            rows.append(row)
    return rows


def own_step(data: Data, setting: Setting, kind: Any, *, constrained: bool) -> Step:
    """A step of the package's own trainer."""
    config = TrainConfig(
        steps=100_000,
        batch_size=setting.batch,
        lr=LR,
        sae=SAEConfig(kind=kind, d_sae=setting.d_sae, k=float(setting.k), dead_after=10_000),
        pairs=PairsConfig() if constrained else PairsConfig(criterion="none"),
    )
    state = TrainState.fresh(config, in_memory(data.batches), torch.device("cpu"))
    return lambda n: train_step(state, data.batches[n % len(data.batches)])


def host_steps(
    data: Data, setting: Setting, config: OrthogonalityConfig | None, folder: str
) -> dict[str, Step]:
    """A step of each host's trainer; sparsify's without the language model."""
    at_lens = saelens_trainer(data, setting, config)
    options = dictionary_trainer(data, setting, config) | {"steps": 100_000}
    at_dictionary = options.pop("trainer")(**options)
    at_sparsify = sparsify_trainer(data, setting, config, hook=LAYER, folder=folder)
    (sae,) = at_sparsify.saes.values()
    (optimizer,) = at_sparsify.optimizers
    batches = data.batches

    def lens(n: int) -> None:  # as in `SAETrainer.fit`
        at_lens.step(batches[n % len(batches)])
        at_lens.n_training_steps += 1

    def coder(n: int) -> None:  # as in `Trainer.fit`
        sae.set_decoder_norm_to_unit_norm()
        sae(batches[n % len(batches)]).fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        at_sparsify.global_step += 1

    return {
        "SAELens, BatchTopK": lens,
        "dictionary_learning, TopK": lambda n: at_dictionary.update(n, batches[n % len(batches)]),
        "sparsify, TopK": coder,
    }


def costs(data: Data, setting: Setting, *, rounds: int) -> dict[str, dict[str, float]]:
    """CPU milliseconds of a step, in every thread, by trainer: `without`, and what is `added`.

    Steps are taken in turn, and CPU time is what a machine that others use too hardly changes. Both
    are medians; `added` is that of the differences between two steps one after the other.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = OrthogonalityConfig(steps=setting.steps)
        off = host_steps(data, setting, None, folder)
        on = host_steps(data, setting, given, folder)
        for kind, name in OWN.items():
            off[name] = own_step(data, setting, kind, constrained=False)
            on[name] = own_step(data, setting, kind, constrained=True)
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in off}
        for number in range(-WARMUP, rounds):
            for name in off:
                pair = spent_on(off[name], WARMUP + number), spent_on(on[name], WARMUP + number)
                if number >= 0:
                    spent[name].append(pair)
    return {
        name: {
            "without": median(without for without, _ in pairs),
            "added": median(with_ - without for without, with_ in pairs),
        }
        for name, pairs in spent.items()
    }


def spent_on(step: Step, number: int) -> float:
    """CPU milliseconds of one step."""
    began = time.process_time()
    step(number)
    return 1e3 * (time.process_time() - began)


def main(argv: list[str] | None = None) -> None:
    options: argparse.ArgumentParser = parser(__doc__ or "")
    options.add_argument("--data", type=Path, required=True, help="folder of the test data")
    options.add_argument("--rounds", type=int, default=0, help="steps of every arm")
    arguments = options.parse_args(argv)
    if not arguments.quick:
        keep_memory("drop_ins.py")
    setting = QUICK if arguments.quick else Setting()
    torch.set_num_threads(1)
    data = harvest(arguments.data, setting)
    trained = effects(data, setting)
    spent = costs(data, setting, rounds=arguments.rounds or (5 if arguments.quick else 100))
    print("CPU time of a step, ms")
    for name, ms in spent.items():
        share = 100 * ms["added"] / ms["without"]
        print(f"  {name:28}{ms['without']:8.2f} +{ms['added']:.2f}, {share:.0f} %")
    write("drop_ins", arguments, facts=asdict(setting), effects=trained, costs=spent)


if __name__ == "__main__":
    main()
