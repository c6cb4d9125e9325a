"""From a configuration to a source that is scaled, planted and measured."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from topk_ortho.activations.kinds import of_language
from topk_ortho.activations.language_source import LanguageSource
from topk_ortho.activations.passes import Passes
from topk_ortho.activations.plant import PlantedSource
from topk_ortho.activations.quiet import QuietSource
from topk_ortho.activations.scaling import (
    ESTIMATION_ROWS,
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
from topk_ortho.machine.phases import phase
from topk_ortho.metrics.loud_rows import TAKEN_OVER, LoudRows, loud_rows, norms

if TYPE_CHECKING:
    from topk_ortho.activations.language_model import LanguageModelSource
    from topk_ortho.activations.models import LanguageModel

LEAST_ROWS = 20
"""Of fewer rows, one may well have most of the variance."""
LEAST_LOUD_ROWS = 200
"""Of fewer rows, one percent is a row or none."""
ROWS_AT_ONCE = 4096
"""Held in float64 beside the first rows."""
STREAMED_CACHE = 512 << 20
"""Bytes of activations that are kept of a streamed text: the first rows, which are read again, up
to a width of 4,096."""


@dataclass(frozen=True)
class Units:
    """The units of activations as an SAE sees them.

    Attributes:
        scale: the constant that the data was multiplied by.
        variance: total variance after that.
        mean: `[d]` after that.
    """

    scale: float
    variance: float
    mean: Tensor


@dataclass(frozen=True)
class Activations:
    """Data that is ready to train on.

    Attributes:
        source: blocks in the SAE's units.
        scale: the constant that the data was multiplied by; 1 on synthetic data.
        variance: total variance of `source`.
        mean: `[d_in]`, that of `source`.
        language: where the activations come from a language model, its source of blocks.
        origin: `model`, `hook`, `hook_out` and `context` of real activations, as far as they are
            known.
        loud: shares of the loudest rows of the unscaled data, None where not measured.
        norm_limit: norm in the unscaled data above which rows are left out, None for no limit.
        left_out: of the first rows, how many positions were kept, and how many left out for each
            reason.
        target: units of what a transcoder reconstructs; None where an SAE reconstructs its input.
    """

    source: Source
    scale: float
    variance: float
    mean: Tensor
    language: LanguageSource | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    loud: LoudRows | None = None
    norm_limit: float | None = None
    left_out: Mapping[str, Any] = field(default_factory=dict)
    target: Units | None = None

    @property
    def d_out(self) -> int | None:
        """Returns the width of what a transcoder reconstructs, None where there is no target."""
        return None if self.target is None else len(self.target.mean)

    @property
    def reconstructed(self) -> Units:
        """Returns the units of what is reconstructed: the penalty's variance, and the mean that
        `b_dec` starts at."""
        return self.target or Units(self.scale, self.variance, self.mean)


def prepare(
    config: TrainConfig,
    *,
    device: str = "cpu",
    language: LanguageSource | None = None,
    norm_limit: float | None = None,
) -> Activations:
    """Build, scale (unless synthetic) and plant the source that `config` asks for.

    Args:
        config: a checked configuration.
        device: where a language model runs.
        language: the source of an earlier call with the same model, text and hook point, so that
            the model does not run again.
        norm_limit: the limit that a run with `max_norm` found; of the data itself unless given.

    Raises:
        ConfigError: data, model or hook point cannot be used; the message says why.
    """
    kind = SOURCES[config.activations]
    opened = of_language(config, language) if language else kind.open(config, device)
    source: Source = opened.source
    with phase("reading the first rows", total=ESTIMATION_ROWS) as work:
        sample, x = sampled(source, progress=work.advance)
    loud, everything = loud_rows(x), len(x)
    left_out = _left_out(opened.language, sample)
    limit = norm_limit
    if config.max_norm is not None:
        limit = config.max_norm * loud.norm_median if limit is None else limit
        left_out |= {"norm": int((norms(x) > limit).sum()), "norm_limit": limit}
        source = QuietSource(source, limit=limit)
        sample, x = sampled(source)
        _check_any(x, limit)
    left_out |= {"kept": everything - left_out.get("norm", 0)} if left_out else {}
    variance = total_variance(x)
    if not variance > 0:
        raise ConfigError(
            f"the first {len(x)} activations, from {sample.origin(source, 0)} on, have a total "
            f"variance of {variance}, but data that varies was expected; check the hook point or "
            "the shards."
        )
    _warn_of_loud_rows(source, sample, x, variance, loud_rows(x))
    warn_of_parts(source, sample, x)
    scale, target = 1.0, _target_units(source, sample, scaled=kind.scaled)
    if kind.scaled:
        scale = (TARGET_VARIANCE / variance) ** 0.5
        source = ScaledSource(source, scale, target=None if target is None else target.scale)
        variance *= scale**2
    if config.plant.enabled:
        source = PlantedSource(source, config.plant, variance=variance, seed=config.seed)
        x = sample.rows(source)
        variance = total_variance(x)
    else:
        x = x * scale
    mean = x.double().mean(0).float()
    return Activations(
        source, scale, variance, mean, opened.language, opened.origin, loud, limit, left_out, target
    )


def _target_units(source: Source, sample: Sample, *, scaled: bool) -> Units | None:
    """Returns the units of the sampled rows' targets, None without any."""
    x = sample.targets(source)
    if x is None:
        return None
    variance = total_variance(x)
    if not variance > 0:
        raise ConfigError(
            f"the targets of the first {len(x)} activations have a total variance of {variance}, "
            "but data that varies was expected; take another --hook-out."
        )
    scale = (TARGET_VARIANCE / variance) ** 0.5 if scaled else 1.0
    return Units(scale, variance * scale**2, (x.double().mean(0) * scale).float())


def _left_out(language: LanguageSource | None, sample: Sample) -> dict[str, Any]:
    """The positions of the sampled blocks that are no rows, by reason."""
    count = getattr(language, "left_out", None)
    return {} if count is None else dict(count(sample.blocks))


def _check_any(x: Tensor, limit: float) -> None:
    if len(x) == 0:
        raise ConfigError(
            f"--max-norm leaves out all of the first activations, those of norm above {limit:.4g}; "
            "raise it, or leave it out."
        )


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
            "take another hook point, or leave out such rows, often those of the first token: "
            "--max-norm 10, or --skip-positions 4.",
            stacklevel=3,
        )


def load_model(
    config: TrainConfig, *, device: str, hooks: Sequence[str] | None = None
) -> LanguageModel:
    """Returns the model of a `language-model` configuration, on `device` unless that says where;
    for its hook point, or several."""
    from topk_ortho.activations.models import LanguageModel

    own = config.model_device
    return LanguageModel.load(
        config.model,
        device=choose_device(own, "model-device") if own else device,
        hooks=[config.hook] if hooks is None else hooks,
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
    (source,) = open_hooks(config, [config.hook], device=device, cache_bytes=cache_bytes).values()
    return source


def open_hooks(
    config: TrainConfig, hooks: Sequence[str], *, device: str, cache_bytes: int = 1 << 30
) -> dict[str, LanguageModelSource]:
    """Returns a source for each of several hook points of one model and text, by hook point.

    The model runs once for all, as long as the sources are read side by side: the rows of as many
    blocks as fill the shuffling buffer wait for them. `cache_bytes` keep computed blocks.
    """
    from topk_ortho.activations.language_model import LanguageModelSource
    from topk_ortho.activations.reading import contexts_of, documents_of, left_out
    from topk_ortho.activations.text import text_name

    documents, streamed = documents_of(config)  # a missing file is reported before loading
    with phase("loading the model"):
        read = [*hooks, config.hook_out] if config.hook_out else hooks
        model = load_model(config, device=device, hooks=read)
    leave_out = left_out(config, model)
    contexts = contexts_of(config, documents, model, leave_out, streamed=streamed)
    if streamed:  # what comes later is read once; the first rows are read again
        cache_bytes = min(cache_bytes, STREAMED_CACHE)
    passes = Passes(
        hooks,
        target=config.hook_out,
        most_rows=(len(hooks) - 1) * (2 * config.buffer_rows + ESTIMATION_ROWS),
    )
    return {
        hook: LanguageModelSource(
            model,
            contexts,
            hook,
            hook_out=config.hook_out,
            cache_bytes=cache_bytes // len(hooks),
            leave_out=leave_out,
            text=text_name(config.text, config.dataset),
            passes=passes,
        )
        for hook in hooks
    }
