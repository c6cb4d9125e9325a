"""One training step of SAELens or dictionary_learning, by their own trainers, for `step.py`.

Runs in `.venv-peers` (`make bench-peers`), which shares the torch of `.venv`. Each trainer is as
its package makes it: their optimiser, auxiliary loss, gradient clipping, statistics and schedules.
No penalty anywhere. They train on the same activations as ours.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import cycle
from typing import Any

import torch
from torch import Tensor
from workers import serve
from workload import Size, activations

Step = Callable[[int], object]


def saelens(batches: list[Tensor], size: Size, *, device: str, sparse: bool) -> Step:
    """`SAETrainer.step` of a `TopKTrainingSAE`, the optimiser's step included."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=size.d_in,
            d_sae=size.d_sae,
            k=size.l0,
            use_sparse_activations=sparse,
            # Sparse activations times decoder norms have no backward pass on CPU.
            rescale_acts_by_decoder_norm=not sparse,
            device=device,
        )
    )
    config = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=size.batch,
        device=device,
        logger=LoggingConfig(log_to_wandb=False),
        lr_end=3e-4,
    )
    data: Iterator[Tensor] = cycle(batches)
    trainer: Any = SAETrainer(config, sae, data)

    def step(_: int) -> None:  # as in `SAETrainer.fit`
        trainer.step(next(data))
        trainer.n_training_steps += 1

    return step


def dictionary_learning(batches: list[Tensor], size: Size, *, device: str) -> Step:
    """`TopKTrainer.update`."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=100_000,
        activation_dim=size.d_in,
        dict_size=size.d_sae,
        k=size.l0,
        layer=0,
        lm_name="none",
        device=device,
        seed=0,
    )
    return lambda number: trainer.update(number, batches[number % len(batches)])


PEERS: dict[str, Callable[..., Step]] = {
    "saelens": lambda *a, **k: saelens(*a, sparse=False, **k),
    "saelens-sparse": lambda *a, **k: saelens(*a, sparse=True, **k),
    "dictionary-learning": dictionary_learning,
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--worker", choices=PEERS)
    options.add_argument("--versions", action="store_true")
    options.add_argument("--size", default="{}")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--warmup", type=int, default=3)
    options.add_argument("--device", default="cpu")
    arguments = options.parse_args()
    if arguments.versions:
        names = ("sae-lens", "dictionary-learning", "torch")
        print(json.dumps({name: version(name) for name in names}))
        return
    torch.set_num_threads(arguments.threads)
    size = Size(**json.loads(arguments.size))
    batches = [x.to(arguments.device) for x in activations(size, batches=4)]
    step = PEERS[arguments.worker](batches, size, device=arguments.device)
    serve(step, warmup=arguments.warmup, device=arguments.device)


if __name__ == "__main__":
    main()
