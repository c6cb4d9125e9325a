"""The settings of a run: data, dictionary, pairs, penalty, optimiser; options and their rules.

The names here are the names of the command line (`--pairs.per-feature`) and of the TOML files
(`per_feature` under `[pairs]`, see `toml.py`). Nothing here imports torch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Protocol

from topk_ortho.config.data import PlantConfig, SyntheticConfig
from topk_ortho.config.errors import require
from topk_ortho.config.history import HistoryConfig
from topk_ortho.config.option import (
    ABOVE_0,
    DECAY,
    FROM_0,
    ROWS,
    ROWS_IN_MEMORY,
    SEED,
    STEPS,
    STEPS_FROM_1,
    Range,
    When,
    option,
    table,
    unless,
    whole,
)
from topk_ortho.config.pairs import PairsConfig
from topk_ortho.config.penalty import PenaltyConfig, coefficient
from topk_ortho.config.registry import OneOf
from topk_ortho.config.sae import SAEConfig
from topk_ortho.config.settings import Settings
from topk_ortho.config.sources import SOURCES


def _sources_with(word: str) -> When:
    """The kinds of sources that have an option."""
    return When("activations", lambda: [k.name for k in SOURCES if word in k.options])


_CONSTRAINED = unless("pairs.criterion", "none")
_FROM_AN_SAE = unless("init-from", None)

DEFAULT_STEPS = 2000
Source = Annotated[str, OneOf(SOURCES, besides=("auto",))]
LoggerName = Literal["tensorboard", "wandb", "trackio"]
ModelBackend = Literal["auto", "transformers", "transformer-lens"]
ModelType = Literal["float32", "bfloat16", "float16", "auto"]
Attention = Literal["auto", "sdpa", "eager", "flash-attention-2"]
OF_A_LANGUAGE_MODEL = ("model", "text", "dataset", "hook", "hook_out")
"""Options that say that activations come from a language model."""
CONTEXT = whole(3, 2**20, "3 (BOS and two tokens) to 1048576")
TOKENS = whole(1, 10**15)
PER_CORE = 4
"""Most threads or processes for each core that are of any use."""
CORES = os.cpu_count() or 1
A_CORE_OR_MORE = whole(
    1,
    PER_CORE * CORES,
    f"1 to {PER_CORE * CORES}, {PER_CORE} for each of this machine's {CORES} cores,",
    fix="lower it",
)
"""Processes at a time."""


@dataclass(frozen=True, repr=False)
class TrainConfig(Settings):
    """One arm: data, dictionary, pairs, penalty, optimiser."""

    seed: int = option(0, within=SEED)
    """Seed of data, initialisation and selection."""
    data_seed: int | None = option(None, within=SEED)
    """Seed of the order of the activations, where it is another than --seed."""
    steps: int = option(
        DEFAULT_STEPS,
        within=whole(1, 10**12, "a run needs at least 1 step, and 1 to 10^12",
                     fix="give --steps 1 or more"),
    )  # fmt: skip
    """Optimiser steps of the whole run; all schedules follow it."""
    batch_size: int = option(512, within=ROWS_IN_MEMORY)
    """Activations per step."""
    lr: float = option(5e-3, within=ABOVE_0)
    """Adam's peak learning rate."""
    warmup_steps: int = option(100, within=STEPS)
    """Steps of linear warm-up."""
    decay_fraction: float = option(
        0.3, within=Range(0, 1, "a share in [0, 1]", "try the default, 0.3")
    )
    """Share of the steps, at the end, over which the learning rate falls to 0."""
    beta1: float = option(0.9, within=DECAY)
    """Adam's β1."""
    beta2: float = option(0.999, within=DECAY)
    """Adam's β2."""
    grad_clip: float = option(100.0, within=FROM_0)
    """Largest norm of the gradient; above it the gradient is scaled down. 0 switches it off."""
    log_every: int = option(50, within=STEPS_FROM_1)
    """Steps between two lines of `metrics.jsonl`."""
    log_to: tuple[LoggerName, ...] = ()
    """Loggers that are told the same besides: `tensorboard`, `wandb` (Weights & Biases), `trackio`;
    each is an extra, as in pip install 'topk-ortho[wandb]'."""
    checkpoint_every: int = option(1000, within=STEPS_FROM_1)
    """Steps between two checkpoints."""
    keep_checkpoints: int = option(2, within=whole(1, 10_000))
    """Newest checkpoints kept."""
    eval_samples: int = option(30_000, within=ROWS)
    """Held-out activations that the metrics at the end are measured on."""
    eval_contexts: int | None = option(
        None, within=whole(0, 2**20), used=_sources_with("eval_contexts")
    )
    """`language-model`: contexts that the CE and KL scores at the end are measured on; 128 unless
    given, and fewer of a large model on a CPU. 0 for no such scores."""
    evaluate_every: int = option(0, within=STEPS)
    """Steps between two measurements on held-out activations during training; 0 for none."""
    evaluate_samples: int = option(4096, within=ROWS, used=unless("evaluate-every", 0))
    """Held-out activations of such a measurement; no more than --eval-samples are taken."""
    with_baseline: bool = option(False, used=_CONSTRAINED)
    """Train the arm without the constraint as well, in `baseline/`, and compare."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, ..."""
    threads: int = option(0, within=whole(0, 2**16))
    """CPU threads; 0 chooses by the size of a step."""

    init_from: Path | None = None
    """Start from this trained SAE: a run folder, or a folder of SAELens, dictionary_learning or
    sparsify. Architecture, `d_sae`, `k` and weights come from it."""
    init_sha256: str | None = option(None, used=_FROM_AN_SAE)
    """sha256 of that SAE's files; filled in automatically, and another SAE is refused."""
    allow_pickle: bool = option(False, used=_FROM_AN_SAE)
    """Open the `ae.pt` of dictionary_learning, a pickle; only tensors are read from it."""

    activations: Source = "auto"
    """Source of the activations; `auto` chooses it by what is given: a language model by --model,
    --text, --dataset or --hook, files by --data, and else synthetic data. A stored
    configuration never says `auto`."""
    model: str = option("", used=_sources_with("model"))
    """`language-model`: a model name, a local folder or a GGUF file."""
    text: tuple[Path, ...] = option((), used=_sources_with("text"))
    """`language-model`: text files, where blank lines separate documents, or .jsonl, .parquet and
    .arrow files with a column `text`. Above 32 MiB they are read as they are needed."""
    dataset: str = option("", used=_sources_with("dataset"))
    """`language-model`: name of a Hugging Face dataset instead of text files."""
    hook: str = option("", used=_sources_with("hook"))
    """`language-model`: hook point, such as `blocks.3.hook_resid_post`."""
    hook_out: str = option("", used=_sources_with("hook_out"))
    """`language-model`: train a transcoder, which reads --hook and reconstructs what is at this
    hook point, such as `blocks.3.hook_mlp_out`, in the same pass."""
    backend: ModelBackend = option("auto", used=_sources_with("backend"))
    """`language-model`: what runs it; `auto` takes transformers, which is faster, where it has the
    hook point (residual stream, attention and MLP outputs), and else transformer-lens."""
    dtype: ModelType = option("float32", used=_sources_with("dtype"))
    """`language-model`: type of its weights, `auto` for the stored one; activations come out in
    float32 all the same."""
    attn: Attention = option("auto", used=_sources_with("attn"))
    """`language-model`: implementation of attention, with the backend transformers."""
    model_device: str = option("", used=_sources_with("model_device"))
    """`language-model`: where it runs, if not on --device."""
    device_map: str = option("", used=_sources_with("device_map"))
    """`language-model`: spread it over several devices, such as `auto`; as transformers takes it.
    Needs the package accelerate."""
    context: int = option(128, within=CONTEXT, used=_sources_with("context"))
    """`language-model`: tokens per context, BOS included."""
    tokens: int | None = option(None, within=TOKENS, used=_sources_with("tokens"))
    """`language-model`: training tokens that are read of the text, which then begins again; all of
    it unless given."""
    leave_out: Literal["special"] | None = option(None, used=_sources_with("leave_out"))
    """`language-model`: `special` leaves out the tokenizer's special tokens, padding among them;
    BOS is always left out."""
    skip_positions: int | None = option(
        None, within=whole(1, 2**20), used=_sources_with("skip_positions")
    )
    """`language-model`: positions at the beginning of every context that are left out, BOS among
    them."""
    chat_roles: tuple[str, ...] | None = option(None, used=_sources_with("chat_roles"))
    """`language-model`: roles whose tokens are trained on, such as `assistant`; the text is then
    records with a column `messages`, rendered with the tokenizer's chat template."""
    max_norm: float | None = option(None, within=ABOVE_0, used=unless("activations", "synthetic"))
    """Leave out activations with a norm above so many times the median, such as attention sinks;
    10 is usual."""
    data: Path | None = option(None, used=_sources_with("data"))
    """`files`: folder of `.npy` or `.safetensors` shards, or of vLLM's hidden states."""
    data_layer: int | None = option(None, within=whole(0, 10_000), used=_sources_with("data-layer"))
    """`files`: which layer is read where hidden states have several, from 0 in their order."""
    buffer_rows: int = option(131_072, within=ROWS_IN_MEMORY)
    """Activations in the shuffling buffer."""
    prefetch: Literal["auto", "on", "off"] = "auto"
    """Make the next filling of that buffer in a thread, while the present one is trained on;
    `auto` does where the SAE or the language model is on an accelerator. Batches are the same
    either way."""

    synthetic: SyntheticConfig = table(SyntheticConfig, used=_sources_with("synthetic"))
    plant: PlantConfig = table(PlantConfig)
    sae: SAEConfig = table(SAEConfig)
    pairs: PairsConfig = table(PairsConfig)
    penalty: PenaltyConfig = table(PenaltyConfig, used=_CONSTRAINED)
    history: HistoryConfig = table(HistoryConfig, used=_CONSTRAINED)

    def complete(self) -> None:
        if self.activations == "auto":
            object.__setattr__(self, "activations", self._source())

    def _source(self) -> str:
        if any(getattr(self, name) for name in OF_A_LANGUAGE_MODEL):
            return "language-model"
        return "synthetic" if self.data is None else "files"

    @property
    def constrained(self) -> bool:
        """Returns whether the arm has a penalty at all."""
        return self.pairs.criterion != "none"

    def without_constraint(self) -> TrainConfig:
        """Returns the same arm, same seed and data order, without the penalty."""
        return replace(self, with_baseline=False, pairs=replace(self.pairs, criterion="none"))

    def coefficient(self) -> float:
        """Returns the penalty's coefficient, by default the criterion's; 0 without a constraint."""
        return coefficient(self.pairs, self.penalty)


def check_threads(threads: int) -> None:
    """Refuse more threads than this machine's cores can use.

    Raises:
        ConfigError: there are too many.
    """
    most = PER_CORE * CORES
    require(
        threads <= most,
        f"--threads {threads} was given",
        f"at most {most} were expected, {PER_CORE} for each of this machine's {CORES} cores",
        "lower it, or leave it out",
    )


def check_text_file(path: Path) -> None:
    """Refuse a folder in the place of a text file.

    Raises:
        ConfigError: it is a folder.
    """
    require(
        not path.is_dir(),
        f"--text {path} was given",
        "it is a folder, and text files were expected",
        f"give those in it, such as {path / '*.txt'}",
    )


def check_places(c: TrainConfig) -> None:
    """Refuse files and folders that do not exist, before many runs fail one by one.

    Raises:
        ConfigError: one is missing, or a text is a folder; the message names the first.
    """
    for text in c.text:
        check_text_file(text)
    files = [("text", path) for path in c.text]
    for name, path in [*files, ("data", c.data), ("init-from", c.init_from)]:
        require(
            path is None or path.exists(),
            f"--{name} {path} was given",
            "there is no such file or folder",
            "check the path",
        )


class Loading(Protocol):
    """The options by which a language model is loaded."""

    @property
    def backend(self) -> str: ...
    @property
    def attn(self) -> str: ...
    @property
    def model_device(self) -> str: ...
    @property
    def device_map(self) -> str: ...


def check_loading(c: Loading) -> None:
    """Refuse options for loading a language model that contradict each other.

    Raises:
        ConfigError: they do; the message names both.
    """
    require(
        not (c.device_map and c.model_device),
        f"--device-map {c.device_map} and --model-device {c.model_device} were given",
        "one of them was expected, since a map says where every layer is",
        "leave one of them out",
    )
    require(
        c.attn == "auto" or c.backend != "transformer-lens",
        f"--attn {c.attn} was given with --backend transformer-lens",
        "that computes attention itself, so that it has no effect",
        "leave it out, or give --backend transformers",
    )


def check_data(c: TrainConfig) -> None:
    """Refuse a source of activations that lacks what it needs.

    Raises:
        ConfigError: something is missing.
    """
    if c.activations == "language-model":
        require(
            bool(c.model),
            "activations of a language model were asked for without a model",
            "a model name or a local folder was expected",
            "add --model NAME_OR_DIR",
        )
        require(
            bool(c.text) != bool(c.dataset),
            "activations of a language model were asked for"
            + (" with both --text and --dataset" if c.text else " without any text"),
            "exactly one source of text was expected",
            "give --text FILE... or --dataset NAME",
        )
        require(
            bool(c.hook),
            "activations of a language model were asked for without a hook point",
            "a name such as blocks.3.hook_resid_post was expected",
            "add --hook NAME",
        )
        require(
            c.eval_contexts is None or not c.plant.enabled,
            f"--eval-contexts {c.eval_contexts} was given with --plant",
            "it has no effect there: what was planted is not the model's, so there is no CE score",
            "leave one of them out",
        )
        _check_transcoder(c)
        check_loading(c)
    if c.activations == "files":
        require(
            c.data is not None,
            "--activations files was given without a folder",
            "a folder of .npy or .safetensors shards was expected",
            "add --data DIR",
        )


def _check_transcoder(c: TrainConfig) -> None:
    require(
        not c.hook_out or c.hook_out != c.hook,
        f"--hook-out {c.hook_out} was given, and --hook is the same",
        "another hook point was expected, since an SAE reconstructs what it reads anyway",
        "leave --hook-out out",
    )
    require(
        not (c.hook_out and c.plant.enabled),
        f"--hook-out {c.hook_out} was given with --plant",
        "hierarchies are planted in what is read, and no transcoder could reconstruct them",
        "leave one of them out",
    )
