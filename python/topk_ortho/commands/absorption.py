"""Measure absorption between classes of tokens that a file names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from topk_ortho.commands.reader import build, read
from topk_ortho.commands.reader.output import check_out, say, write_json
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.option import ROWS_IN_MEMORY, SEED, option, whole
from topk_ortho.config.train import (
    CONTEXT,
    Attention,
    ModelBackend,
    ModelType,
    check_loading,
)

DEFAULT_CONTEXT = 128


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure absorption between classes of tokens, such as "any pronoun" > "she".

    A class counts only if a linear probe for it beats the same probe on random classes of the same
    size and frequency; else it is not measurable on this model. docs/absorption.md has the file's
    format and the definitions.
    """

    saes: tuple[Path, ...] = option(positional=True)
    """Run folders, or folders with an SAE, all of one hook point; model and probes run once for
    them."""
    classes: Path
    """TOML or JSON file of classes and edges."""
    model: str = ""
    """Model name, local folder or GGUF file; the run's, or the one the SAE names, unless given."""
    text: tuple[Path, ...] = ()
    """Text files; blank lines separate documents. The run's own, which it was trained on, unless
    given."""
    hook: str = ""
    """Hook point that the SAE was trained on, such as `blocks.3.hook_resid_post`; the run's, or the
    one the SAE names, unless given."""
    context: int | None = option(None, within=CONTEXT)
    """Tokens per context, BOS included; the run's, or 128, unless given."""
    tokens: int = option(200_000, within=ROWS_IN_MEMORY)
    """Tokens of the text that are used: half to fit probes and match features, half to measure."""
    draws: int = option(19, within=whole(1, 10_000))
    """Random classes that each class has to beat."""
    match: Literal["f1", "correlation"] = "f1"
    """Score by which a feature is matched to each class."""
    eval_contexts: int | None = option(None, within=whole(0, 2**20))
    """Contexts that the CE score is measured on; 128 unless given, and fewer of a large model on a
    CPU. 0 for no CE score."""
    seed: int = option(0, within=SEED)
    """Seed of the random classes."""
    device: str = "auto"
    """Where model, SAE and probes run."""
    backend: ModelBackend = "auto"
    """What runs the model; `auto` takes transformers where it has the hook point, and else
    transformer-lens."""
    dtype: ModelType = "float32"
    """Type of the model's weights, `auto` for the stored one."""
    attn: Attention = "auto"
    """Implementation of attention, with the backend transformers."""
    model_device: str = ""
    """Where the model runs, if not on --device."""
    device_map: str = ""
    """Spread the model over several devices, such as `auto`."""
    out: Path | None = None
    """Write the JSON to this file as well."""
    allow_pickle: bool = False
    """Open an SAE of dictionary_learning, which is a pickle; only tensors are read from it."""
    allow_mismatch: bool = False
    """Measure even though the SAE names another model or hook point."""
    json: bool = False
    """Print JSON instead of the table."""


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command; returns the exit code."""
    o = build(Options, read(Options, arguments, prog=prog))
    check_out(o.out)
    check_loading(o)
    o = with_its_own(o)
    from topk_ortho.inspect.absorption.measure import measure
    from topk_ortho.inspect.absorption.text import as_text, beside_each_other
    from topk_ortho.machine.hardware import choose_device

    loading = {name: getattr(o, name) for name in ("backend", "dtype", "attn", "device_map")}
    if o.model_device:
        loading["device"] = str(choose_device(o.model_device, "model-device"))
    found = measure(
        o.saes,
        model=o.model,
        text=o.text,
        hook=o.hook,
        classes=o.classes,
        loading=loading,
        context=o.context or DEFAULT_CONTEXT,
        tokens=o.tokens,
        draws=o.draws,
        match=o.match,
        eval_contexts=o.eval_contexts,
        seed=o.seed,
        device=o.device,
        allow_pickle=o.allow_pickle,
        allow_mismatch=o.allow_mismatch,
    )
    measured = []
    for one in found:
        measured.append(one)
        if not o.json:
            say(as_text(one))
    if len(measured) > 1 and not o.json:
        say(beside_each_other(measured))
    records = [one.as_json() for one in measured]
    record = records[0] if len(records) == 1 else {"saes": records}
    write_json(o.out, record)
    if o.json:
        say(json.dumps(record, indent=2))
    return 0


def with_its_own(o: Options) -> Options:
    """Returns the options with model, text, hook point and context of the first run or SAE, where
    they were not given.

    Raises:
        ConfigError: one was not given, and neither names it.
    """
    from topk_ortho import formats
    from topk_ortho.inspect.evaluate.asked import run_config

    first = o.saes[0]
    run = run_config(first) or TrainConfig()
    model, hook, text = o.model or run.model, o.hook or run.hook, o.text or run.text
    if not (model and hook):
        stored = formats.read(first, allow_pickle=o.allow_pickle)
        model, hook = model or stored.model, hook or stored.hook
    found = {"--model": model, "--text": text, "--hook": hook}
    missing = [name for name, value in found.items() if not value]
    if missing:
        raise ConfigError(
            f"{first} was given without {' and '.join(missing)}, but it is no run of a language "
            f"model on text files that says it; add {'it' if len(missing) == 1 else 'them'}."
        )
    own_context = run.context if run.model else DEFAULT_CONTEXT
    return replace(o, model=model, hook=hook, text=text, context=o.context or own_context)
