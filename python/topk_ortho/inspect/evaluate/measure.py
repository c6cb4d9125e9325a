"""Every metric of one SAE on given data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from topk_ortho.config import ConfigError
from topk_ortho.inspect.evaluate.data import Measurable
from topk_ortho.machine import phases
from topk_ortho.machine.phases import Phase, phase
from topk_ortho.metrics.behaviour import behaviour
from topk_ortho.metrics.edges import GroundTruthResult
from topk_ortho.metrics.reconstruction import frequency_histogram
from topk_ortho.metrics.saelens import PROMPTS, RunEvalsLosses, RunEvalsRows
from topk_ortho.sae import SAE
from topk_ortho.training.evaluation import Meters, reconstructor, rows_at_once


@dataclass(frozen=True)
class Measured:
    """The metrics of one SAE.

    Attributes:
        figures: metrics, flat, by our names.
        counts: what rates were counted from, by the same names.
        histogram: of firing frequencies (`frequency_histogram`).
        saelens: by the groups and names of SAELens' `run_evals`; None without a language model.
        contexts: how many contexts of a language model, None elsewhere.
        truth: every edge and true feature, None without ground truth.
    """

    figures: dict[str, Any]
    counts: dict[str, Any]
    histogram: dict[str, Any]
    saelens: dict[str, dict[str, float | None]] | None
    contexts: int | None
    truth: GroundTruthResult | None


def measure(sae: SAE, data: Measurable, *, samples: int, progress: bool = True) -> Measured:
    """Measure on about `samples` activations; each pass shows a progress bar on stderr.

    Raises:
        ConfigError: the SAE is for activations of another width.
    """
    if sae.d_in != data.source.d_in:
        raise ConfigError(
            f"the SAE reads activations of width {sae.d_in}, but the data has "
            f"{data.source.d_in}; give the model and hook point (or files) it was trained on."
        )
    data.check_target(sae)
    meters = Meters(sae, data.source.truth)
    losses: dict[str, Any] = {}
    saelens = contexts = None
    if data.language is None:
        _over_blocks(meters, data, samples=samples, shown=progress)
    else:
        contexts, kept = data.contexts(samples)
        rows = _over_contexts(meters, data, contexts, kept, shown=progress)
        losses, theirs = _losses(sae, data, contexts, kept, shown=progress)
        if not sae.transcoder:  # SAELens' run_evals knows none
            saelens = {**theirs.result(), **rows.result(meters.reconstruction.result())}
    found = meters.result()
    counts = found.figures.pop("counts")
    return Measured(
        figures=found.figures | losses,
        counts=counts,
        histogram=frequency_histogram(meters.reconstruction.fired, meters.reconstruction.rows),
        saelens=saelens,
        contexts=None if contexts is None else len(contexts),
        truth=found.truth,
    )


def _over_blocks(meters: Meters, data: Measurable, *, samples: int, shown: bool) -> None:
    with phase_if(shown, "reconstruction", samples) as work:
        for block in data.blocks(samples, rows=rows_at_once(meters.sae.d_sae)):
            meters.add(*block)
            work.advance(len(block.x))


def _over_contexts(
    meters: Meters, data: Measurable, contexts: Tensor, kept: Tensor, *, shown: bool
) -> RunEvalsRows:
    """Reconstruction of the tokens that are not left out, and what SAELens takes batch by batch."""
    language, theirs = data.language, RunEvalsRows()
    assert language is not None
    with phase_if(shown, "reconstruction", len(contexts), "contexts") as work:
        for tokens, keep in zip(contexts.split(PROMPTS), kept.split(PROMPTS), strict=True):
            block = data.at(tokens, keep)
            size = rows_at_once(meters.sae.d_sae)
            pieces = [block.take(slice(n, n + size)) for n in range(0, len(block.x), size)]
            x_hat = torch.cat([meters.add(*piece) for piece in pieces])
            target = block.x if block.target is None else block.target
            theirs.update(target, x_hat.to(target.device))
            work.advance(len(tokens))
    return theirs


def _losses(
    sae: SAE, data: Measurable, contexts: Tensor, kept: Tensor, *, shown: bool
) -> tuple[dict[str, float | None], RunEvalsLosses]:
    """Our losses and scores, and those of SAELens."""
    language, theirs = data.language, RunEvalsLosses()
    assert language is not None
    with phase_if(shown, "model behaviour", len(contexts), "contexts") as work:
        ours = behaviour(
            language.model.remembering,
            contexts,
            language.hook_out or language.hook,
            reconstructor(sae),
            hook_in=language.hook if language.hook_out else "",
            kept=kept,
            norm_limit=data.norm_limit,
            batch=PROMPTS,
            beside=theirs,
            progress=work.advance,
        )
    return ours, theirs


@contextmanager
def phase_if(shown: bool, name: str, total: int, unit: str = "rows") -> Iterator[Phase]:
    """A phase whose progress is on stderr, if it is to be shown."""
    with phases.shown(shown), phase(name, total=total, unit=unit) as work:
        yield work
