"""Other people's training loops, with and without the constraint, for `drop_ins.py`.

Runs in `.venv-integrations` (`make test-integrations`). Each host trains by its own loop on
activations of a language model: SAELens by `SAETrainer.fit`, dictionary_learning by `trainSAE`, and
sparsify by `Trainer.fit`, which runs the model itself.
"""

from __future__ import annotations

import os

os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")  # its Triton decoder needs a GPU

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topk_ortho.activations.models import LanguageModel
from topk_ortho.activations.text import pack_contexts, text_documents
from topk_ortho.integrations import OrthogonalityConfig, saelens, sparsify
from topk_ortho.integrations.dictionary_learning import with_orthogonality

CONTEXT, HOOK, LAYER = 128, "blocks.3.hook_resid_post", "layers.3"
LR = 2e-3


@dataclass(frozen=True)
class Setting:
    """One dictionary, one run, and how much text is harvested for it."""

    d_sae: int = 512
    k: int = 16
    sequences: int = 8
    steps: int = 400
    contexts: int = 480

    @property
    def batch(self) -> int:
        """Activations per step: a context has a row for each token but BOS."""
        return self.sequences * (CONTEXT - 1)


QUICK = Setting(d_sae=256, sequences=4, steps=120, contexts=120)


@dataclass(frozen=True)
class Data:
    """Attributes:
    batches: `[batch, d_in]` each, shuffled activations at `HOOK`.
    tokens: `[contexts, CONTEXT]`, what they come from.
    held_out: `[contexts, CONTEXT]`, other ones.
    model: the folder of the language model.
    """

    batches: list[Tensor]
    tokens: Tensor
    held_out: Tensor
    model: Path


def harvest(folder: Path, setting: Setting) -> Data:
    """Activations of `folder/stories260k` on `folder/text/stories.txt`."""
    model = LanguageModel.load(folder / "stories260k")
    documents = text_documents([folder / "text" / "stories.txt"])
    need = setting.contexts + setting.sequences
    tokens = pack_contexts(model.tokenizer, documents, CONTEXT, max_tokens=CONTEXT * (need + 8))
    tokens, held_out = tokens[: setting.contexts], tokens[setting.contexts : need]
    x = torch.cat([model.activations(part, HOOK)[:, 1:] for part in tokens.split(16)]).flatten(0, 1)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    return Data(list(x.split(setting.batch))[:-1], tokens, held_out, folder / "stories260k")


@dataclass(frozen=True)
class Trained:
    """The SAE that a host trained, on held-out activations.

    Attributes:
        acts: `[batch, d_sae]` codes.
        W_dec: `[d_sae, d_out]`.
        explained: explained variance of the reconstruction.
    """

    acts: Tensor
    W_dec: Tensor
    explained: float


def saelens_trainer(data: Data, setting: Setting, config: OrthogonalityConfig | None) -> Any:
    """A trainer of SAELens with a BatchTopK SAE; `config` None is without the constraint."""
    import sae_lens
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    d_in = data.batches[0].shape[1]
    sae = sae_lens.BatchTopKTrainingSAE(
        sae_lens.BatchTopKTrainingSAEConfig(d_in=d_in, d_sae=setting.d_sae, k=setting.k)
    )
    if config is not None:
        saelens.attach(sae, config)
    run = SAETrainerConfig(
        total_training_samples=setting.steps * setting.batch,
        train_batch_size_samples=setting.batch,
        device="cpu",
        lr=LR,
        lr_end=LR,
        logger=LoggingConfig(log_to_wandb=False),
    )
    return SAETrainer(run, sae, cycle(data.batches))


def train_saelens(data: Data, setting: Setting, config: OrthogonalityConfig | None) -> Trained:
    """By `SAETrainer.fit`."""
    sae = saelens_trainer(data, setting, config).fit()
    x, _ = held_out(data, LAYER)
    with torch.no_grad():
        acts = sae.encode(x)
        return Trained(acts, sae.W_dec.detach(), explained(x, sae.decode(acts)))


def dictionary_trainer(data: Data, setting: Setting, config: OrthogonalityConfig | None) -> dict:
    """Returns the arguments from which `trainSAE` makes a `TopKTrainer`."""
    kind = import_module("dictionary_learning.trainers.top_k").TopKTrainer
    return {
        "trainer": kind if config is None else with_orthogonality(kind, config),
        "steps": setting.steps,
        "activation_dim": data.batches[0].shape[1],
        "dict_size": setting.d_sae,
        "k": setting.k,
        "lr": LR,
        "warmup_steps": 20,
        "layer": 3,
        "lm_name": "stories260k",
        "device": "cpu",
        "seed": 0,
    }


def train_dictionary(data: Data, setting: Setting, config: OrthogonalityConfig | None) -> Trained:
    """By `trainSAE`."""
    from dictionary_learning.training import trainSAE

    made: list[Any] = []
    options = dictionary_trainer(data, setting, config)
    kind = options["trainer"]

    def keep(**given: Any) -> Any:
        made.append(kind(**given))
        return made[-1]

    trainSAE(cycle(data.batches), [options | {"trainer": keep}], steps=setting.steps, device="cpu")
    ae = made[0].ae
    x, _ = held_out(data, LAYER)
    with torch.no_grad():
        acts = ae.encode(x)
        return Trained(acts, ae.decoder.weight.detach().T, explained(x, ae.decode(acts)))


def sparsify_trainer(
    data: Data, setting: Setting, config: OrthogonalityConfig | None, *, hook: str, folder: str
) -> Any:
    """A trainer of sparsify; what it reads an `mlp` hook by is a transcoder."""
    import sparsify as package
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    tokens = data.tokens.repeat(-(-setting.steps * setting.sequences // len(data.tokens)), 1)
    tokens = tokens[: setting.steps * setting.sequences]
    run = package.TrainConfig(
        package.SparseCoderConfig(
            num_latents=setting.d_sae, k=setting.k, transcode=hook.endswith("mlp")
        ),
        batch_size=setting.sequences,
        hookpoints=[hook],
        exclude_tokens=[1],  # BOS
        save_every=10**9,
        save_dir=folder,
        log_to_wandb=False,
    )
    model = AutoModelForCausalLM.from_pretrained(data.model)
    rows = Dataset.from_dict({"input_ids": tokens.tolist()}).with_format("torch")
    trainer = package.Trainer(run, rows, model)
    if config is not None:
        sparsify.attach(trainer, config)
    return trainer


def train_sparsify(
    data: Data, setting: Setting, config: OrthogonalityConfig | None, *, hook: str = LAYER
) -> Trained:
    """By `Trainer.fit`; what is measured is what it saves."""
    from sparsify import SparseCoder

    precision = torch.get_float32_matmul_precision()
    with tempfile.TemporaryDirectory() as folder:
        sparsify_trainer(data, setting, config, hook=hook, folder=folder).fit()
        sae = SparseCoder.load_from_disk(Path(folder) / "unnamed" / hook)
    torch.set_float32_matmul_precision(precision)  # `fit` lowers it
    x, y = held_out(data, hook)
    with torch.no_grad():
        out = sae(x if sae.cfg.transcode else y, y)
        acts = torch.zeros(len(x), sae.num_latents)
        acts.scatter_(1, out.latent_indices, out.latent_acts)
        return Trained(acts, sae.W_dec.detach(), explained(y, out.sae_out))


def train_transcoder(data: Data, setting: Setting, config: OrthogonalityConfig | None) -> Trained:
    """The same for a transcoder of an MLP."""
    return train_sparsify(data, setting, config, hook=f"{LAYER}.mlp")


HOSTS: dict[str, Callable[[Data, Setting, OrthogonalityConfig | None], Trained]] = {
    "SAELens": train_saelens,
    "dictionary_learning": train_dictionary,
    "sparsify": train_sparsify,
    "sparsify, transcoder": train_transcoder,
}


def held_out(data: Data, hook: str) -> tuple[Tensor, Tensor]:
    """Returns the inputs and outputs of a module on the held-out text, `[batch, d]` each."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(data.model)
    seen: list[Tensor] = []

    def keep(module: Any, given: Any, out: Any) -> None:
        out = out[0] if isinstance(out, tuple) else out
        seen.extend([given[0][:, 1:].flatten(0, 1), out[:, 1:].flatten(0, 1)])

    model.model.get_submodule(hook).register_forward_hook(keep)
    with torch.no_grad():
        model(data.held_out)
    return seen[0], seen[1]


def explained(y: Tensor, y_hat: Tensor) -> float:
    """Explained variance, over all dimensions."""
    return float(1 - (y - y_hat).pow(2).sum() / (y - y.mean(0)).pow(2).sum())
