"""From text to a trained SAE by SAELens' runner or sparsify's trainer, for `language_model.py`.

Runs in `.venv-peers` (`make bench-peers`). Each program reads the same local text and the same
model folder through `datasets` and transformers, as its documentation shows, with its own defaults
for what is not named here. Prints one line of JSON: seconds in the model and in training steps.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Clock:
    """Seconds spent in wrapped functions, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - began

        return timed


def documents(path: Path) -> list[str]:
    """Returns the documents of a text file; blank lines separate them."""
    return [text for text in path.read_text(encoding="utf-8").split("\n\n") if text.strip()]


def saelens(o: argparse.Namespace, clock: Clock) -> None:
    """`LanguageModelSAETrainingRunner` with a BatchTopK SAE, on the transformers model."""
    from datasets import Dataset
    from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, LoggingConfig
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAEConfig
    from sae_lens.training.activations_store import ActivationsStore
    from sae_lens.training.sae_trainer import SAETrainer

    store: Any = ActivationsStore
    store.get_activations = clock.wrap("model", store.get_activations)
    trainer: Any = SAETrainer
    trainer.step = clock.wrap("training", trainer.step)
    config = LanguageModelSAERunnerConfig(
        sae=BatchTopKTrainingSAEConfig(d_in=o.d_in, d_sae=o.d_sae, k=o.k, device="cpu"),
        model_name=o.model,
        model_class_name="AutoModelForCausalLM",
        hook_name=f"model.layers.{o.layer}",
        streaming=False,
        is_dataset_tokenized=False,
        context_size=o.context,
        training_tokens=o.tokens,
        train_batch_size_tokens=o.batch_size,
        n_batches_in_buffer=o.buffer // o.context,  # which it multiplies by the context
        store_batch_size_prompts=o.prompts,
        lr=o.lr or 3e-4,
        device="cpu",
        seed=0,
        n_checkpoints=0,
        checkpoint_path=None,
        output_path=str(o.out),
        verbose=False,
        logger=LoggingConfig(log_to_wandb=False),
    )
    data = Dataset.from_dict({"text": documents(o.text)})
    LanguageModelSAETrainingRunner(config, override_dataset=data).run()


def sparsify(o: argparse.Namespace, clock: Clock) -> None:
    """`Trainer` with a TopK SAE, on the base model as its command line loads it; the layers behind
    the hook, which that runs too, are dropped unless the program is `sparsify-all-layers`.

    Harvesting and training are one function there; the model's share is what is left of the
    training loop after the SAE's own functions.
    """
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its kernel needs a GPU
    from datasets import Dataset
    from sparsify import SaeConfig, TrainConfig, Trainer
    from sparsify.data import chunk_and_tokenize
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(o.model, dtype=torch.float32)
    if o.program == "sparsify":
        keep_layers(model, o.layer + 1)
    data = chunk_and_tokenize(
        Dataset.from_dict({"text": documents(o.text)}),
        AutoTokenizer.from_pretrained(o.model),
        max_seq_len=o.context,
    )
    data = data.shuffle(seed=0).select(range(o.tokens // o.context))
    config = TrainConfig(
        SaeConfig(num_latents=o.d_sae, k=o.k),
        batch_size=o.batch_size // o.context,
        hookpoints=[f"layers.{o.layer}"],
        lr=o.lr,
        save_dir=str(o.out),
        run_name="sae",
        log_to_wandb=False,
    )
    trainer = Trainer(config, data, model)
    for layer in model.layers:
        layer.forward = clock.wrap("model", layer.forward)  # hooks run outside of it
    clock.wrap("training", trainer.fit)()
    clock.seconds["training"] -= clock.seconds["model"]


def keep_layers(model: Any, number: int) -> None:
    """Drop the layers behind the hook, which its users would have to do by hand."""
    model.layers = model.layers[:number]
    model.config.num_hidden_layers = number


PEERS = {"saelens": saelens, "sparsify": sparsify, "sparsify-all-layers": sparsify}


def main() -> None:
    """Run one program once."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("program", choices=PEERS)
    for name in ("model", "out"):
        options.add_argument(f"--{name}", required=True)
    options.add_argument("--text", type=Path, required=True)
    for name in ("layer", "d-in", "d-sae", "k", "tokens", "context", "batch-size", "buffer",
                 "prompts", "threads"):  # fmt: skip
        options.add_argument(f"--{name}", type=int, required=True)
    options.add_argument("--lr", type=float)
    o = options.parse_args()
    torch.set_num_threads(o.threads)
    clock = Clock()
    PEERS[o.program](o, clock)
    print("@" + json.dumps(clock.seconds), flush=True)
    os._exit(0)  # datasets' and wandb's threads may linger


if __name__ == "__main__":
    main()
