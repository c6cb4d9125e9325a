"""Measure an SAE, ours or anyone's, in the metrics of the field."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from topk_ortho.commands.reader import build, read
from topk_ortho.commands.reader.data import check_one_text, data_settings
from topk_ortho.commands.reader.output import check_out, say, write_json
from topk_ortho.config import PlantConfig, SyntheticConfig, TrainConfig
from topk_ortho.config.option import ROWS, SEED, option, table, when, whole
from topk_ortho.config.train import CONTEXT, Attention, ModelBackend, ModelType, Source

_OWN = when("suite", "own")
_SAEBENCH = when("suite", "saebench")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure an SAE in the metrics of SAELens and SAEBench.

    Takes a run folder, whose data is held out and known, or the folder of any SAE that can be
    loaded, with the data in options. `--suite saebench` runs the published SAEBench instead.
    """

    sae: Path = option(positional=True)
    """A run folder, or the folder of an SAE."""
    out: Path | None = None
    """Write everything that was measured to this JSON file."""
    allow_pickle: bool = False
    """Open an SAE of dictionary_learning, which is a pickle; only tensors are read from it."""
    allow_mismatch: bool = option(False, used=when("suite", "own"))
    """Measure even though the SAE names another model or hook point."""
    json: bool = False
    """Print JSON in place of the table."""
    split: Literal["auto", "eval", "all"] = option("auto", used=_OWN)
    """`eval`: what training leaves out of the data, its last twentieth; `all`: from the beginning;
    `auto`: `eval` for a run on its own data, else `all`."""
    eval_samples: int = option(30_000, within=ROWS, used=_OWN)
    """Activations to measure on; of a language model, enough whole contexts for that many."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, ..."""

    activations: Source = option("auto", used=_OWN)
    """Source of the activations; by the other options, or the run's own unless given."""
    model: str = ""
    """`language-model`: a model name or a local folder; the one the SAE names unless given."""
    text: tuple[Path, ...] = ()
    """`language-model`: text files; blank lines separate documents."""
    dataset: str = ""
    """`language-model`: name of a Hugging Face dataset instead of text files."""
    hook: str = ""
    """`language-model`: hook point; the one the SAE names unless given."""
    hook_out: str = option("", used=_OWN)
    """`language-model`: hook point that a transcoder reconstructs; the one that it names unless
    given."""
    context: int = option(128, within=CONTEXT)
    """`language-model`: tokens per context, BOS included."""
    backend: ModelBackend = option("auto", used=_OWN)
    """`language-model`: what runs it; `auto` takes transformers where it has the hook point, and
    else transformer-lens."""
    dtype: ModelType = option("float32", used=_OWN)
    """`language-model`: type of its weights, `auto` for the stored one."""
    attn: Attention = option("auto", used=_OWN)
    """`language-model`: implementation of attention, with the backend transformers."""
    model_device: str = option("", used=_OWN)
    """`language-model`: where it runs, if not on --device."""
    device_map: str = option("", used=_OWN)
    """`language-model`: spread it over several devices, such as `auto`."""
    data: Path | None = option(None, used=_OWN)
    """`files`: folder of `.npy` or `.safetensors` shards."""
    seed: int = option(0, within=SEED, used=_OWN)
    """Seed of synthetic data and of what is planted."""
    synthetic: SyntheticConfig = table(SyntheticConfig, used=_OWN)
    plant: PlantConfig = table(PlantConfig, used=_OWN)

    suite: Literal["own", "saebench"] = "own"
    """`own`: measured here; `saebench`: by the published package sae-bench."""
    evals: str = option("core", used=_SAEBENCH)
    """`saebench`: which of core, absorption, sparse_probing, scr, tpp, unlearning, by commas."""
    saebench_python: Path = option(Path(".venv-saebench/bin/python"), used=_SAEBENCH)
    """`saebench`: the Python of the environment that `make saebench` builds."""
    saebench_folder: Path = option(Path("runs/saebench"), used=_SAEBENCH)
    """`saebench`: folder of its files and logs; finished evals in it are not run again."""
    core_batches: tuple[int, int] = option((200, 2000), within=whole(1, 1_000_000), used=_SAEBENCH)
    """`saebench`: batches of 16 contexts that core takes for the losses, and for the rest."""
    llm_batch_size: int = option(32, within=whole(1, 65_536), used=_SAEBENCH)
    """`saebench`: prompts at a time in the other evals."""
    words: int = option(0, within=whole(0, 1_000_000), used=_SAEBENCH)
    """`saebench`: absorption on a sample of so many words of the vocabulary; 0 for all."""


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command; returns the exit code, 1 where SAEBench measured nothing."""
    given = read(Options, arguments, prog=prog)
    o = build(Options, given)
    check_one_text(given.values)
    data = data_settings(given.values, Options)
    check_out(o.out)
    if o.suite == "saebench":
        record, text, code = _saebench(o, given.values)
    else:
        record, text, code = _own(o, data)
    write_json(o.out, record)
    say(json.dumps(record, indent=2) if o.json else text)
    return code


def _own(o: Options, given: dict[str, Any]) -> tuple[dict[str, Any], str, int]:
    from topk_ortho.inspect.evaluate.record import as_text, evaluate

    record = evaluate(
        o.sae,
        given,
        split=o.split,
        device=o.device,
        allow_pickle=o.allow_pickle,
        allow_mismatch=o.allow_mismatch,
    )
    return record, as_text(record), 0


def _saebench(o: Options, given: Collection[str]) -> tuple[dict[str, Any], str, int]:
    from topk_ortho import formats
    from topk_ortho.inspect.evaluate.asked import run_config
    from topk_ortho.integrations.saebench import Suite, as_json, as_text, chosen, run_suite
    from topk_ortho.machine.hardware import choose_device

    evals = chosen(o.evals)
    stored = formats.read(o.sae, allow_pickle=o.allow_pickle)
    stored.check_no_transcoder(o.sae, command="SAEBench")
    run = run_config(o.sae) or TrainConfig(model=stored.model, hook=stored.hook, context=o.context)
    outcomes = run_suite(
        Suite(
            sae=replace(stored, model=o.model or run.model, hook=o.hook or run.hook),
            digest=formats.digest(o.sae),
            evals=evals,
            python=o.saebench_python,
            folder=o.saebench_folder,
            # a run's own text is what it was trained on, and SAEBench holds nothing out
            text=o.text,
            dataset=o.dataset,
            context=o.context if "context" in given else run.context,
            device=str(choose_device(o.device)),
            core_batches=o.core_batches,
            llm_batch_size=o.llm_batch_size,
            words=o.words,
        )
    )
    record = {"suite": "saebench", "sae": str(o.sae), **as_json(outcomes)}
    done = any(outcome.status == "done" for outcome in outcomes.values())
    return record, as_text(outcomes), 0 if done else 1
