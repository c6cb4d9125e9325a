"""From a configuration to a source that is scaled, planted and measured."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from topk_ortho.activations.language_source import LanguageSource
from topk_ortho.activations.plant import PlantedSource
from topk_ortho.activations.scaling import (
    TARGET_VARIANCE,
    ScaledSource,
    first_rows,
    row_origin,
    total_variance,
)
from topk_ortho.activations.source import Source
from topk_ortho.activations.synthetic import SyntheticSource
from topk_ortho.config import ConfigError, TrainConfig

if TYPE_CHECKING:
    from topk_ortho.activations.language_model import LanguageModelSource

LEAST_ROWS = 20
"""Of fewer rows, one may well have most of the variance."""
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
    """

    source: Source
    scale: float
    variance: float
    mean: Tensor
    language: LanguageSource | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)


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
    source: Source
    origin: Mapping[str, Any] = {}
    if config.activations == "synthetic":
        source = SyntheticSource(config.synthetic, seed=config.seed)
    elif config.activations == "files":
        from topk_ortho.activations.files import FilesSource

        assert config.data is not None
        files = FilesSource(config.data)
        source, origin = files, files.described
    else:
        source = language = language or open_language_model(config, device=device)
        origin = {"model": config.model, "hook": config.hook, "context": config.context}
    x = first_rows(source)
    variance = total_variance(x)
    if not variance > 0:
        raise ConfigError(
            f"the first {len(x)} activations, from {row_origin(source, 0)} on, have a total "
            f"variance of {variance}, but data that varies was expected; check the hook point or "
            "the shards."
        )
    _warn_of_one_row(source, x, variance)
    scale = 1.0
    if config.activations != "synthetic":
        scale = (TARGET_VARIANCE / variance) ** 0.5
        source, variance = ScaledSource(source, scale), variance * scale**2
    if config.plant.enabled:
        source = PlantedSource(source, config.plant, variance=variance, seed=config.seed)
        x = first_rows(source)
        variance = total_variance(x)
    else:
        x = x * scale
    return Activations(source, scale, variance, x.double().mean(0).float(), language, origin)


def _warn_of_one_row(source: Source, x: Tensor, variance: float) -> None:
    """Say which row has most of the variance: the scale would be made for it alone."""
    mean = x.double().mean(0)
    squares = torch.cat([(part - mean).square().sum(1) for part in x.split(ROWS_AT_ONCE)])
    share, row = (squares / (variance * len(x))).max(0)
    if len(x) >= LEAST_ROWS and float(share) > 0.5:
        warnings.warn(
            f"{row_origin(source, int(row))} has {float(share):.0%} of the variance of the first "
            f"{len(x)} activations, so everything else is scaled to nearly nothing; if it is no "
            "activation of the model, remove it.",
            stacklevel=3,
        )


def open_language_model(
    config: TrainConfig, *, device: str, cache_bytes: int = 1 << 30
) -> LanguageModelSource:
    """The model, text and hook point of a `language-model` configuration.

    `cache_bytes` of memory keep computed blocks.
    """
    from topk_ortho.activations.language_model import LanguageModel, LanguageModelSource
    from topk_ortho.activations.text import dataset_documents, pack_contexts, text_documents

    documents = text_documents(config.text) if config.text else dataset_documents(config.dataset)
    documents = chain([next(documents, "")], documents)  # a missing file is told before loading
    model = LanguageModel.load(config.model, device=device)
    contexts = pack_contexts(model.tokenizer, documents, config.context)
    return LanguageModelSource(model, contexts, config.hook, cache_bytes=cache_bytes)
