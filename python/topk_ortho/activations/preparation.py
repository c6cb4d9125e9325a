"""From a configuration to a source that is scaled, planted and measured."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from topk_ortho.activations.kinds import of_language
from topk_ortho.activations.language_source import LanguageSource
from topk_ortho.activations.plant import PlantedSource
from topk_ortho.activations.scaling import (
    TARGET_VARIANCE,
    Sample,
    ScaledSource,
    sampled,
    total_variance,
    warn_of_parts,
)
from topk_ortho.activations.source import Source
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.sources import SOURCES
from topk_ortho.machine.hardware import choose_device
from topk_ortho.metrics.loud_rows import TAKEN_OVER, LoudRows, loud_rows

if TYPE_CHECKING:
    from topk_ortho.activations.language_model import LanguageModelSource
    from topk_ortho.activations.models import LanguageModel

LEAST_ROWS = 20
"""Of fewer rows, one may well have most of the variance."""
LEAST_LOUD_ROWS = 200
"""Of fewer rows, one percent is a row or none."""
ROWS_AT_ONCE = 4096
"""Held in float64 beside the first rows."""


@dataclass(frozen=True)
class Activations:
    """Data that is ready to train on.

    Attributes:
        source: blocks in the SAE's units.
        scale: the constant that the data was multiplied by; 1 on synthetic data.
        variance: total variance of `source`, the penalty's unit.
        mean: `[d_in]`, where `b_dec` starts.
        language: where the activations come from a language model, its source of blocks.
        origin: `model`, `hook` and `context` of real activations, as far as they are known.
        loud: shares of the loudest rows of the unscaled data, None where not measured.
    """

    source: Source
    scale: float
    variance: float
    mean: Tensor
    language: LanguageSource | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    loud: LoudRows | None = None


def prepare(
    config: TrainConfig, *, device: str = "cpu", language: LanguageSource | None = None
) -> Activations:
    """Build, scale (unless synthetic) and plant the source that `config` asks for.

    Args:
        config: a checked configuration.
        device: where a language model runs.
        language: the source of an earlier call with the same model, text and hook point, so that
            the model does not run again.

    Raises:
        ConfigError: data, model or hook point cannot be used; the message says why.
    """
    kind = SOURCES[config.activations]
    opened = of_language(config, language) if language else kind.open(config, device)
    source: Source = opened.source
    sample, x = sampled(source)
    variance = total_variance(x)
    if not variance > 0:
        raise ConfigError(
            f"the first {len(x)} activations, from {sample.origin(source, 0)} on, have a total "
            f"variance of {variance}, but data that varies was expected; check the hook point or "
            "the shards."
        )
    loud = loud_rows(x)
    _warn_of_loud_rows(source, sample, x, variance, loud)
    warn_of_parts(source, sample, x)
    scale = 1.0
    if kind.scaled:
        scale = (TARGET_VARIANCE / variance) ** 0.5
        source, variance = ScaledSource(source, scale), variance * scale**2
    if config.plant.enabled:
        source = PlantedSource(source, config.plant, variance=variance, seed=config.seed)
        x = sample.rows(source)
        variance = total_variance(x)
    else:
        x = x * scale
    mean = x.double().mean(0).float()
    return Activations(source, scale, variance, mean, opened.language, opened.origin, loud)


def _warn_of_loud_rows(
    source: Source, sample: Sample, x: Tensor, variance: float, loud: LoudRows
) -> None:
    """Refuse or warn where a few rows have most of the variance and would decide the scale."""
    mean = x.double().mean(0)
    squares = torch.cat([(part - mean).square().sum(1) for part in x.split(ROWS_AT_ONCE)])
    share, row = (squares / (variance * len(x))).max(0)
    if len(x) >= LEAST_ROWS and float(share) > 0.5:
        warnings.warn(
            f"{sample.origin(source, int(row))} has {float(share):.0%} of the variance of the "
            f"first {len(x)} activations, so everything else is scaled to nearly nothing; if it is "
            "no activation of the model, remove it.",
            stacklevel=3,
        )
    elif len(x) >= LEAST_LOUD_ROWS and loud.variance_share > TAKEN_OVER:
        warnings.warn(
            f"{loud}, so they decide the scale, the explained variance and the selected pairs; "
            "take another hook point, or leave out such rows (often those of the first token).",
            stacklevel=3,
        )


def load_model(config: TrainConfig, *, device: str) -> LanguageModel:
    """Returns the model of a `language-model` configuration, on `device` unless that says where."""
    from topk_ortho.activations.models import LanguageModel

    own = config.model_device
    return LanguageModel.load(
        config.model,
        device=choose_device(own, "model-device") if own else device,
        hooks=[config.hook],
        backend=config.backend,
        dtype=config.dtype,
        attn=config.attn,
        device_map=config.device_map,
    )


def open_language_model(
    config: TrainConfig, *, device: str, cache_bytes: int = 1 << 30
) -> LanguageModelSource:
    """Returns the source for the model, text and hook point of a `language-model` configuration.

    `cache_bytes` of memory keep computed blocks.
    """
    from topk_ortho.activations.language_model import LanguageModelSource
    from topk_ortho.activations.text import (
        dataset_documents,
        pack_contexts,
        text_documents,
        text_name,
    )

    documents = text_documents(config.text) if config.text else dataset_documents(config.dataset)
    documents = chain([next(documents, "")], documents)  # a missing file is reported before loading
    model = load_model(config, device=device)
    name = text_name(config.text, config.dataset)
    contexts = pack_contexts(model.tokenizer, documents, config.context, name=name)
    return LanguageModelSource(model, contexts, config.hook, cache_bytes=cache_bytes, text=name)
