"""The memory that a run will take, put together from what each of its parts declares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from topk_ortho.activations import memory as data
from topk_ortho.activations.language_model import CONTEXTS_PER_BLOCK, CPU_TOKENS
from topk_ortho.activations.models import memory as language
from topk_ortho.activations.models.memory import ModelSizes
from topk_ortho.config import TrainConfig
from topk_ortho.config.registry import ARCHITECTURES
from topk_ortho.constraint import memory as constraint
from topk_ortho.machine.forecast import Component, Forecast, Shapes, since
from topk_ortho.metrics.behaviour import CONTEXTS_AT_ONCE as SPLICED_AT_ONCE
from topk_ortho.sae.sae import SPARSE_DENSITY
from topk_ortho.training import evaluation, held_out, losses, optimizer

RUNNING = 20
"""Bytes per feature of `Firing`: rate, threshold, energy in float32, steps of silence in int64."""
PRODUCTS = 6 * 2**20
"""Bytes that the library of matrix products keeps for itself; measured."""


def forecast(
    config: TrainConfig,
    *,
    d_in: int,
    d_out: int | None = None,
    device: str,
    cached: int = 0,
    loaded: int = 0,
    model: ModelSizes | None = None,
) -> Forecast:
    """Returns the components of one arm.

    Args:
        config: a checked configuration.
        d_in: width of the activations.
        d_out: width of what a transcoder reconstructs; none unless given.
        device: type of the training device, `cpu` or `cuda`.
        cached: bytes of activations that their source keeps.
        loaded: bytes of code that the process has yet to load.
        model: sizes of the language model that is loaded already, if there is one.
    """
    gpu, kind = device != "cpu", ARCHITECTURES[config.sae.kind]
    few = kind.has_sparse_path() and kind.first_density(config.sae) < SPARSE_DENSITY
    l0, sparse = kind.first_l0(config.sae), few and not gpu
    s = Shapes(config, d_in, gpu, l0=l0, sparse=sparse, target=d_out or 0)
    parts = [*_components(s, cached), *_of_the_model(config, model)]
    found = Forecast.of(parts, gpu=gpu)
    late = since("filling the buffer")
    code = Component("code loaded on first use", loaded, late, "", "host")
    return Forecast((*found.components, code)) if loaded else found


def _of_the_model(config: TrainConfig, model: ModelSizes | None) -> Iterator[Component]:
    if model is None:
        return
    asked = config.eval_contexts
    tokens = CPU_TOKENS if model.place == "host" else CONTEXTS_PER_BLOCK * config.context
    yield from language.memory(
        model,
        context=config.context,
        reading=max(tokens, config.context),
        splicing=SPLICED_AT_ONCE,
        scored=evaluation.BEHAVIOUR_CONTEXTS if asked is None else asked,
    )


def _components(s: Shapes, cached: int) -> Iterator[Component]:
    c, kind = s.config, ARCHITECTURES[s.config.sae.kind]
    rows = evaluation.calibration_rows(c.sae.d_sae, c.batch_size)
    piece = min(c.batch_size, evaluation.rows_at_once(c.sae.d_sae))
    calibrating = tuple(kind.calibration_memory(s, rows=rows, piece=piece))
    yield from data.memory(s, cached=cached, calibration_rows=rows if calibrating else 0)
    yield from kind.memory(s)
    yield from losses.memory(s)
    yield from constraint.memory(s)
    yield from optimizer.memory(s)
    yield from calibrating
    yield from evaluation.memory(s, encode_copies=kind.encode_copies)
    if c.evaluate_every:
        rows = held_out.samples(c)
        piece = min(rows, evaluation.rows_at_once(c.sae.d_sae))
        for part in kind.calibration_memory(s, rows=rows, piece=piece):
            yield replace(part, when=("calibration on the way",))
        yield from held_out.memory(s, encode_copies=kind.encode_copies)
    size = "--sae.d-sae"
    running = RUNNING * c.sae.d_sae
    yield Component("running figures", running, since("filling the buffer"), size)
    yield Component("buffers of matrix products", PRODUCTS, since("encoding"), "", "host")
    copied = 3 * s.parameters if s.gpu else s.encoder if s.sparse else 0
    yield Component("copy of the state", copied, ("checkpoint",), size, "host")
    # cloned, as bytes, and once more as one file
    yield Component("weights to be written", 3 * s.parameters, ("export",), size, "host")
