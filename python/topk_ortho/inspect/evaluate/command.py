"""`topk-ortho evaluate` with its own suite: load, measure, say it, write it down."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from topk_ortho import formats
from topk_ortho.activations.fingerprint import fingerprint
from topk_ortho.activations.same_data import other_data
from topk_ortho.checkpoint.atomic import replace_file
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.formats.load import as_module
from topk_ortho.inspect.evaluate.data import measurable
from topk_ortho.inspect.evaluate.measure import Measured, measure
from topk_ortho.inspect.evaluate.options import Asked, EvaluateOptions, run_config, understand
from topk_ortho.inspect.evaluate.text import metrics_text
from topk_ortho.machine import hardware
from topk_ortho.metrics.health import gate
from topk_ortho.sae import SAE
from topk_ortho.studies.options import names_given
from topk_ortho.terminal import printable


def run_evaluation(options: EvaluateOptions, arguments: list[str]) -> str:
    """Measure, write `--out`, and return what to print.

    Args:
        options: from `read`.
        arguments: the command line that they were read from.

    Raises:
        ConfigError: no such SAE, or data that cannot be used or does not fit it.
    """
    check_out(options.out)
    stored = formats.read(options.sae, allow_pickle=options.allow_pickle)
    sae = as_module(stored)
    asked = understand(
        options, names_given(arguments), named={"model": stored.model, "hook": stored.hook}
    )
    _check_held_out(options, asked)
    device = hardware.choose_device(options.device)
    data = measurable(asked.config, split=asked.split, device=str(device))
    try:
        measured = measure(sae.to(device), data, samples=options.eval_samples)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{options.sae} cannot be measured: {error}") from error
    record = as_json(asked, sae, measured, device)
    if options.out is not None:
        write(options.out, record)
    return json.dumps(record, indent=2) if options.json else as_text(record)


def _check_held_out(options: EvaluateOptions, asked: Asked) -> None:
    """Refuse to call a part of a run's data held out once its files are others.

    Raises:
        ConfigError: so it is; a split that was asked for is taken as it is.
    """
    run = run_config(options.sae)
    if run is None or options.split != "auto" or asked.split != "eval":
        return
    if changed := other_data(options.sae, replace(asked.config, model=run.model)):
        raise ConfigError(
            f"{options.sae} was given, but {changed} is not what it was when the run was trained, "
            "so that no part of the data is known to be held out; restore it, or give --split all."
        )


def as_json(asked: Asked, sae: SAE, measured: Measured, device: torch.device) -> dict[str, Any]:
    """Everything that was measured, and what it was measured on."""
    truth = measured.truth
    return {
        "sae": {
            "path": str(asked.options.sae),
            "kind": sae.config.kind,
            "d_in": sae.d_in,
            "d_sae": sae.d_sae,
        },
        "data": _data(asked.config, asked.split, measured),
        "health": gate(measured.figures),
        "figures": measured.figures,
        "counts": measured.counts,
        "frequency_histogram": measured.histogram,
        "saelens": measured.saelens,
        "ground_truth": None if truth is None else truth.table(),
        "made_with": hardware.describe(asked.config, device, torch.get_num_threads()),
    }


def _data(config: TrainConfig, split: str, measured: Measured) -> dict[str, Any]:
    described: dict[str, Any] = {
        "activations": config.activations,
        "split": split,
        "rows": measured.figures["rows"],
        "contexts": measured.contexts,
        "planted": config.plant.enabled,
    }
    if config.activations == "synthetic":
        described["preset"] = config.synthetic.preset
    elif config.activations == "files":
        described["data"] = str(config.data)
    else:
        described |= {
            "model": config.model,
            "hook": config.hook,
            "context": config.context,
            "text": [str(path) for path in config.text] or config.dataset,
        }
    return described | {"files": fingerprint(config)}


def as_text(record: dict[str, Any]) -> str:
    """The tables for the terminal."""
    sae, data = record["sae"], record["data"]
    head = (
        f"SAE   {printable(sae['path'])}: {sae['kind']}, {sae['d_sae']:,} features, "
        f"d_in {sae['d_in']}\ndata  {printable(_where(data))}, {data['rows']:,} rows"
    )
    return "\n\n".join(
        [head, metrics_text(record["figures"], record["frequency_histogram"], record["saelens"])]
    )


def _where(data: dict[str, Any]) -> str:
    part = "held out" if data["split"] == "eval" else "from the beginning"
    planted = ", hierarchies planted" if data["planted"] else ""
    if data["activations"] == "synthetic":
        return f"synthetic {data['preset']}{planted}"
    if data["activations"] == "files":
        return f"{data['data']}{planted} ({part})"
    tokens = "" if data["contexts"] is None else f", {data['contexts']:,} contexts without BOS"
    return f"{data['model']} at {data['hook']}{planted} ({part}){tokens}"


def check_out(path: Path | None) -> None:
    """Say before the work that `--out` cannot be written.

    Raises:
        ConfigError: it is a folder, or its folder does not exist.
    """
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise ConfigError(
            f"--out {path} was given, but a file in an existing folder was expected; correct it."
        )


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file as a whole or not at all."""
    replace_file(path, (json.dumps(record, indent=2) + "\n").encode())
