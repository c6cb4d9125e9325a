"""The record of an SAE measured on data, and its tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from topk_ortho.activations.fingerprint import fingerprint
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.inspect.evaluate.asked import Asked
from topk_ortho.inspect.evaluate.measure import Measured, measure
from topk_ortho.inspect.evaluate.opening import opened
from topk_ortho.inspect.evaluate.text import metrics_text
from topk_ortho.machine import hardware
from topk_ortho.metrics.health import gate
from topk_ortho.sae import SAE
from topk_ortho.terminal import printable


def evaluate(
    sae: Path,
    given: Mapping[str, Any],
    *,
    split: Literal["auto", "eval", "all"] = "auto",
    device: str = "auto",
    allow_pickle: bool = False,
    allow_mismatch: bool = False,
) -> dict[str, Any]:
    """Returns everything that was measured, and what it was measured on.

    Args:
        sae: a run folder, or the folder of an SAE.
        given: settings of the data, by their names as options, such as `synthetic.d-in`; those of
            a run's own data unless given.
        split: the part of the data, as `understand` has it.
        device: where to measure.
        allow_pickle: open an SAE of dictionary_learning.
        allow_mismatch: measure even though the SAE names another model or hook point.

    Raises:
        ConfigError: no such SAE, or data that cannot be used or does not fit it.
    """
    found = opened(
        sae,
        given,
        split=split,
        device=device,
        allow_pickle=allow_pickle,
        allow_mismatch=allow_mismatch,
    )
    samples = found.asked.config.eval_samples
    try:
        measured = measure(found.module, found.data, samples=samples)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{sae} cannot be measured: {error}") from error
    record = as_json(found.asked, found.module, measured, found.device)
    record["sae"] |= found.named
    return record


def as_json(asked: Asked, sae: SAE, measured: Measured, device: torch.device) -> dict[str, Any]:
    """Returns everything that was measured, and the data."""
    truth = measured.truth
    return {
        "sae": {
            "path": str(asked.sae),
            "kind": sae.config.kind,
            "d_in": sae.d_in,
            **({"d_out": sae.d_out} if sae.transcoder else {}),
            "d_sae": sae.d_sae,
        },
        "health": gate(measured.figures),
        "figures": measured.figures,
        "saelens": measured.saelens,
        "data": _data(asked.config, asked.split, measured),
        "counts": measured.counts,
        "frequency_histogram": measured.histogram,
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
    elif config.data is not None:
        described["data"] = str(config.data)
    elif config.model:
        described |= {
            "model": config.model,
            "hook": config.hook,
            **({"hook_out": config.hook_out} if config.hook_out else {}),
            "context": config.context,
            "text": [str(path) for path in config.text] or config.dataset,
        }
    return described | {"files": fingerprint(config)}


def as_text(record: dict[str, Any]) -> str:
    """The tables for the terminal."""
    sae, data = record["sae"], record["data"]
    head = (
        f"SAE   {printable(sae['path'])}: {sae['kind']}, {sae['d_sae']:,} features, "
        f"d_in {sae['d_in']}{_out(sae)}\ndata  {printable(_where(data))}, {data['rows']:,} rows"
    )
    return "\n\n".join(
        [head, metrics_text(record["figures"], record["frequency_histogram"], record["saelens"])]
    )


def _out(sae: dict[str, Any]) -> str:
    return f", d_out {sae['d_out']} (transcoder)" if "d_out" in sae else ""


def _where(data: dict[str, Any]) -> str:
    part = "held out" if data["split"] == "eval" else "from the beginning"
    planted = ", hierarchies planted" if data["planted"] else ""
    if data["activations"] == "synthetic":
        return f"synthetic {data['preset']}{planted}"
    if "model" not in data:
        kind = "" if data["activations"] == "files" else f"{data['activations']} "
        return f"{kind}{data.get('data', '')}{planted} ({part})"
    tokens = "" if data["contexts"] is None else f", {data['contexts']:,} contexts without BOS"
    to = f" to {data['hook_out']}" if "hook_out" in data else ""
    return f"{data['model']} at {data['hook']}{to}{planted} ({part}){tokens}"
