"""Held-out activations in the units that the SAE was exported in: those of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from topk_ortho.activations import Block, Source, prepare
from topk_ortho.activations.language_source import LanguageSource
from topk_ortho.activations.preparation import open_language_model
from topk_ortho.activations.quiet import QuietSource
from topk_ortho.activations.scaling import ScaledSource, first_rows
from topk_ortho.activations.source import Split
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.metrics.loud_rows import loud_rows, norms
from topk_ortho.sae import SAE
from topk_ortho.training.evaluation import eval_blocks


@dataclass(frozen=True)
class Measurable:
    """Activations that an SAE is measured on.

    Attributes:
        source: activations in the units of the model.
        language: the model and its contexts, where nothing was planted in its activations.
        splits: which parts of the data, in the order of the data.
        norm_limit: norm above which activations are left out, None for no limit.
        origin: `model` and `hook` as the source itself names them, {} where it does not.
        targets: whether there is something else to reconstruct than what is read.
    """

    source: Source
    language: LanguageSource | None
    splits: tuple[Split, ...]
    norm_limit: float | None = None
    origin: Mapping[str, str] = field(default_factory=dict)
    targets: bool = False

    def blocks(self, samples: int, *, rows: int) -> Iterator[Block]:
        """Pieces of `rows` at most, until there are `samples` rows."""
        for split in self.splits:
            for block in eval_blocks(self.source, samples, rows=rows, split=split):
                samples -= len(block.x)
                yield block

    def contexts(self, samples: int) -> tuple[Tensor, Tensor]:
        """Returns `[n, context]` int64, just enough for `samples` rows, or all; and `[n, context]`
        bool, which positions are rows."""
        assert self.language is not None
        tokens: list[Tensor] = []
        kept: list[Tensor] = []
        for split in self.splits:
            if samples > 0:
                tokens.append(self.language.contexts(split, rows=samples))
                kept.append(self.language.kept(split, rows=samples))
                samples -= int(kept[-1].sum())
        return torch.cat(tokens), torch.cat(kept)

    def at(self, tokens: Tensor, kept: Tensor) -> Block:
        """Returns the rows of contexts `[n, context]` at the positions `kept`, on the model's
        device."""
        language = self.language
        assert language is not None
        hooks = [hook for hook in (language.hook, language.hook_out) if hook]
        found = language.model.activations_at(tokens, hooks)
        block = Block(found[language.hook], None, found.get(language.hook_out))
        block = block.take(kept.to(block.x.device))
        if self.norm_limit is None:
            return block
        return block.take(norms(block.x) <= self.norm_limit)

    def check_target(self, sae: SAE) -> None:
        """Refuse a transcoder without what it reconstructs, and an SAE with it.

        Raises:
            ConfigError: one lacks the other.
        """
        if sae.transcoder and not self.targets:
            raise ConfigError(
                "a transcoder was given without what it reconstructs, but the activations of a "
                "language model at two hook points were expected; give --model, --text, --hook and "
                "--hook-out as it was trained on."
            )
        if self.targets and not sae.transcoder:
            raise ConfigError(
                "--hook-out was given, but the SAE is no transcoder; leave --hook-out out."
            )


def measurable(
    config: TrainConfig,
    *,
    split: Literal["eval", "all"],
    device: str = "cpu",
    norm_limit: float | None = None,
) -> Measurable:
    """Returns the data of a checked configuration.

    Args:
        config: the data.
        split: the part that is measured on.
        device: where a language model runs.
        norm_limit: as the run found it that `max_norm` is of; of the data itself unless given.

    Raises:
        ConfigError: data, model or hook point cannot be used.
    """
    splits: tuple[Split, ...] = ("train", "eval") if split == "all" else ("eval",)
    if config.activations == "language-model" and not config.plant.enabled:
        language, targets = open_language_model(config, device=device), bool(config.hook_out)
        if config.max_norm is None:
            return Measurable(language, language, splits, targets=targets)
        if norm_limit is None:
            norm_limit = config.max_norm * loud_rows(first_rows(language)).norm_median
        quiet = QuietSource(language, limit=norm_limit)
        return Measurable(quiet, language, splits, norm_limit, targets=targets)
    prepared = prepare(config, device=device, norm_limit=norm_limit)
    source: Source = prepared.source
    if isinstance(source, ScaledSource):
        source = source.source  # exactly as it was, without a rounding there and back
    elif prepared.scale != 1:
        source = ScaledSource(source, 1 / prepared.scale)
    said = prepared.origin
    named = {k: said[k] for k in ("model", "hook") if isinstance(said.get(k), str)}
    targets = prepared.target is not None
    return Measurable(source, None, splits, prepared.norm_limit, named, targets)
