"""The start of a run in words: the memory that it will need, and warnings about its settings."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from topk_ortho.activations.language_model import LanguageModelSource
from topk_ortho.activations.language_source import LanguageSource
from topk_ortho.activations.models.memory import ModelSizes
from topk_ortho.config import TrainConfig
from topk_ortho.machine import hardware, memory
from topk_ortho.machine.forecast import Forecast, Place, readable
from topk_ortho.terminal import printable
from topk_ortho.training.memory import forecast

LOADED = 210 * 10**6
"""Bytes that a process grows by when optimiser, matching and products are first used."""
NAMED = 3  # components in the short form
CACHED_BLOCKS = 2**30  # activations that a language model's source keeps


def announce(
    config: TrainConfig,
    *,
    d_in: int,
    d_out: int | None = None,
    device: torch.device,
    language: LanguageSource | None,
) -> Forecast:
    """Returns the forecast of a run; warns where it will hardly fit, or be needlessly slow."""
    memory.release_freed()  # memory left from preparing the data is reused: it does not count
    expected = forecast(
        config,
        d_in=d_in,
        d_out=d_out,
        device=device.type,
        cached=cached_blocks(language),
        loaded=still_to_load(),
        model=model_sizes(language, device),
    )
    for problem in (*problems(expected, device), *slow_paths(config, device)):
        warnings.warn(problem, stacklevel=2)
    return expected


def in_one_line(config: TrainConfig, *, d_in: int, device: torch.device, folder: Path) -> str:
    """Returns what is trained on what: SAE, data, length, arms, device and folder."""
    sae = config.sae
    arms = config.pairs.criterion if config.constrained else "no constraint"
    arms += ", and none beside it" if config.with_baseline else ""
    planted = " with planted hierarchies" if config.plant.enabled else ""
    kind = "transcoder" if config.hook_out else "SAE"
    return printable(
        f"training a {sae.kind} {kind} of {sae.d_sae:,} features, k {sae.k:g}, on "
        f"{_data(config)} (d_in {d_in:,}){planted}: {config.steps:,} steps of "
        f"{config.batch_size:,} activations, {arms}, on {device}, in {folder}"
    )


def _data(config: TrainConfig) -> str:
    if config.model:
        text = config.dataset or ", ".join(path.name for path in config.text)
        to = f" to {config.hook_out}" if config.hook_out else ""
        return f"{config.model} at {config.hook}{to}, {text}"
    if config.activations == "synthetic":
        return f"synthetic {config.synthetic.preset}"
    return config.activations if config.data is None else f"{config.activations} in {config.data}"


def in_short(expected: Forecast, device: torch.device) -> str:
    """Returns one line: the peak, when it comes, and the largest parts."""
    place, where = places(device)[0]
    parts = expected.at_peak(place)[:NAMED]
    named = ", ".join(f"{part.name} {readable(part.bytes)}" for part in parts)
    used = readable(memory.memory_in_use(where)[0])
    return (
        f"memory: {used} in use, {readable(expected.peak(place))} more at the peak, in "
        f"{expected.moment(place)}: {named}, ..."
    )


def still_to_load() -> int:
    """Returns the bytes of code yet to be loaded: the optimiser brings torch's compiler."""
    return 0 if "torch._dynamo" in sys.modules else LOADED


def cached_blocks(language: LanguageSource | None) -> int:
    """Returns the bytes that a language model's source will keep of its activations at most."""
    if not isinstance(language, LanguageModelSource):
        return 0
    if language.n_blocks("train") is None:
        return language.cache_bytes
    tokens = language.contexts("train").numel() + language.contexts("eval").numel()
    return min(CACHED_BLOCKS, 4 * (language.d_in + (language.d_out or 0)) * tokens)


def model_sizes(language: LanguageSource | None, device: torch.device) -> ModelSizes | None:
    """Returns the sizes of the language model of a source that is open, if it has one loaded."""
    return language.model.sizes(device) if isinstance(language, LanguageModelSource) else None


def places(device: torch.device) -> list[tuple[Place, torch.device]]:
    """Returns where memory is taken; on CPU there is only one such place."""
    host: tuple[Place, torch.device] = ("host", torch.device("cpu"))
    return [host] if device.type == "cpu" else [("device", device), host]


def fits(expected: Forecast, place: Place, where: torch.device) -> bool:
    """Returns whether the peak is available, as far as can be told."""
    available = memory.memory_available(where)
    return available is None or expected.peak(place) <= available


def slow_paths(config: TrainConfig, device: torch.device) -> Iterator[str]:
    """Yields a sentence for each setting that makes a run slower on this machine."""
    if config.sae.bf16_prefilter and device.type == "cpu" and hardware.has_bf16_products() is False:
        yield (
            "--sae.bf16-prefilter was given, but this processor has no bfloat16 products, so that "
            "a step takes several times as long as in float32; leave --sae.bf16-prefilter out."
        )
    where = config.model_device or device.type
    narrow = config.dtype in ("bfloat16", "float16") and not config.device_map
    if narrow and where.startswith("cpu") and hardware.has_bf16_products() is False:
        yield (
            f"--dtype {config.dtype} was given, but this processor has no products of that type, "
            "so that the language model takes longer than in float32; leave --dtype out."
        )


def problems(expected: Forecast, device: torch.device) -> Iterator[str]:
    """Yields a sentence for each place that has less memory than the run is expected to need."""
    for place, where in places(device):
        if not fits(expected, place, where):
            parts = [part for part in expected.at_peak(place) if part.setting]
            remedy = (
                f"lower {parts[0].setting} ({parts[0].name} takes {readable(parts[0].bytes)})"
                if parts
                else f"take data of fewer dimensions ({expected.moment(place)} takes most)"
            )
            yield (
                f"the run is expected to need {readable(expected.peak(place))} more memory on "
                f"{where.type}, but {readable(memory.memory_available(where) or 0)} is available; "
                f"{remedy}."
            )
