"""The options of `topk-ortho evaluate`, and the configuration of the data that they ask for.

Data of a run comes from its own configuration, option by option unless given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from topk_ortho.config import ConfigError, PlantConfig, SyntheticConfig, TrainConfig
from topk_ortho.config.paths import stored_config
from topk_ortho.config.rules import check
from topk_ortho.studies.options import names_given

Activations = Literal["auto", "synthetic", "language-model", "files"]
OF_A_RUN = ("eval_samples", "activations", "model", "text", "dataset", "hook", "context", "data",
            "seed", "synthetic", "plant")  # fmt: skip
"""Options that have the same name, and for a run the same value, in its configuration."""
OF_A_MODEL = {"model", "text", "dataset", "hook", "context"}
OF_SAEBENCH = {"evals", "saebench-python", "saebench-folder", "core-batches", "llm-batch-size"}
NOT_OF_SAEBENCH = {"split", "eval-samples", "activations", "data", "seed", "synthetic", "plant"}
OTHER_DATA = {"text", "dataset", "data"}
"""Options that put other data in the place of a run's own, of which a part was held out."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure an SAE in the figures that SAELens and SAEBench would give.

    Takes a run folder, whose data is held out and known, or the folder of any SAE that can be
    loaded, with the data in options. `--suite saebench` runs the published SAEBench instead.
    """

    sae: Annotated[Path, tyro.conf.Positional]
    """A run folder, or the folder of an SAE."""
    out: Path | None = None
    """Write everything that was measured to this JSON file."""
    allow_pickle: bool = False
    """Open an SAE of dictionary_learning, which is a pickle; nothing but tensors is taken."""
    json: bool = False
    """Print JSON in place of the table."""
    split: Literal["auto", "eval", "all"] = "auto"
    """`eval`: what training leaves out of the data, its last twentieth; `all`: from the beginning;
    `auto`: `eval` for a run on its own data, else `all`."""
    eval_samples: int = 30_000
    """Activations to measure on; of a language model whole contexts until there are so many."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, ..."""

    activations: Activations = "auto"
    """Where activations come from; by the other options, or the run's own unless given."""
    model: str = ""
    """`language-model`: a model name or a local folder; the one the SAE names unless given."""
    text: tuple[Path, ...] = ()
    """`language-model`: text files; blank lines separate documents."""
    dataset: str = ""
    """`language-model`: name of a Hugging Face dataset instead of text files."""
    hook: str = ""
    """`language-model`: hook point; the one the SAE names unless given."""
    context: int = 128
    """`language-model`: tokens per context, BOS included."""
    data: Path | None = None
    """`files`: folder of `.npy` or `.safetensors` shards."""
    seed: int = 0
    """Seed of synthetic data and of what is planted."""
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    plant: PlantConfig = field(default_factory=PlantConfig)

    suite: Literal["own", "saebench"] = "own"
    """`own`: measured here; `saebench`: by the published package sae-bench."""
    evals: str = "core"
    """`saebench`: which of core, absorption, sparse_probing, scr, tpp, unlearning, by commas."""
    saebench_python: Path = Path(".venv-saebench/bin/python")
    """`saebench`: the Python of the environment that `make saebench` builds."""
    saebench_folder: Path = Path("runs/saebench")
    """`saebench`: folder of its own files and logs; finished evals in it are not run again."""
    core_batches: tuple[int, int] = (200, 2000)
    """`saebench`: batches of 16 contexts that core takes for the losses, and for all else."""
    llm_batch_size: int = 32
    """`saebench`: prompts at a time in the other evals."""


@dataclass(frozen=True)
class Asked:
    """A command line, understood.

    Attributes:
        options: as given, a run's own data filled in.
        config: data, seed and samples; everything else in it is a default.
        split: the part of the data that is measured on.
    """

    options: EvaluateOptions
    config: TrainConfig
    split: Literal["eval", "all"]


def read(arguments: Sequence[str], *, prog: str = "topk-ortho evaluate") -> EvaluateOptions:
    """Options from a command line, a run's own data as the default.

    Raises:
        SystemExit: `--help`, or an option that tyro cannot read.
    """
    arguments = ["--plant.enabled" if a == "--plant" else a for a in arguments]
    words = names_given(arguments)
    planted = any(w.startswith("plant.") and w != "plant.no-enabled" for w in words)
    if planted and "plant.enabled" not in words:
        arguments = [*arguments, "--plant.enabled"]
    options = tyro.cli(EvaluateOptions, args=arguments, prog=prog)
    run = run_config(options.sae)
    if run is not None:
        own: dict[str, Any] = {name: getattr(run, name) for name in OF_A_RUN}
        default = replace(EvaluateOptions(options.sae), **own)
        options = tyro.cli(EvaluateOptions, args=arguments, prog=prog, default=default)
    return options


def understand(options: EvaluateOptions, words: set[str], *, named: dict[str, str]) -> Asked:
    """What data to measure on.

    Args:
        options: from `read`.
        words: names of the options that were given.
        named: `model` and `hook` as the SAE itself names them, where it does.

    Raises:
        ConfigError: no data, or data that contradicts itself.
    """
    run = run_config(options.sae)
    first_words = {word.split(".")[0] for word in words}
    kind = _kind(options, words, own=None if run is None else run.activations)
    for theirs, of in (("language-model", OF_A_MODEL), ("files", {"data"}),
                       ("synthetic", {"synthetic"})):  # fmt: skip
        if kind != theirs and first_words & of:
            raise ConfigError(
                f"--{min(first_words & of)} was given, but the activations are {kind}, which take "
                "no such option; leave it out, or give --activations and what belongs to them."
            )
    split = options.split
    if kind == "synthetic":
        split = "eval"  # it never ends, and every block is fresh
    elif split == "auto":
        split = "all" if run is None or first_words & OTHER_DATA else "eval"
    model = kind == "language-model"
    files = kind == "files"
    text = () if options.dataset and "text" not in words else options.text
    dataset = "" if options.text and "dataset" not in words else options.dataset
    config = TrainConfig(
        seed=options.seed,
        eval_samples=options.eval_samples,
        device=options.device,
        activations=kind,
        model=(options.model or named.get("model", "")) if model else "",
        text=text if model else (),
        dataset=dataset if model else "",
        hook=(options.hook or named.get("hook", "")) if model else "",
        context=options.context,
        data=options.data if files else None,
        synthetic=options.synthetic,
        plant=options.plant,
    )
    return Asked(options, check(config), split)


def _kind(options: EvaluateOptions, words: set[str], *, own: str | None) -> Any:
    if options.activations != "auto" and ("activations" in words or own is None):
        return options.activations
    if "data" in words:
        return "files"
    if words & OF_A_MODEL:
        return "language-model"
    if any(word.startswith("synthetic.") for word in words):
        return "synthetic"
    if own is not None:
        return own
    raise ConfigError(
        f"{options.sae} was given without data, but it is no run folder that knows its own; add "
        "--text FILE... (and --model, --hook where the SAE does not name them), --data DIR, or "
        "--activations synthetic."
    )


def check_suite(options: EvaluateOptions, words: set[str]) -> None:
    """Refuse options that mean nothing to the suite.

    Raises:
        ConfigError: the first of them.
    """
    own = options.suite == "own"
    useless = {word.split(".")[0] for word in words} & (OF_SAEBENCH if own else NOT_OF_SAEBENCH)
    if {"text", "dataset"} <= words:
        raise ConfigError("--text and --dataset were both given; leave one of them out.")
    if useless:
        raise ConfigError(
            f"--{min(useless)} was given, but the suite is {options.suite}, which takes no such "
            f"option; leave it out{', or add --suite saebench' if own else ''}."
        )


def run_config(path: Path) -> TrainConfig | None:
    """The configuration of a run folder, None for any other folder."""
    return stored_config(path) if (path / "config.toml").is_file() else None
