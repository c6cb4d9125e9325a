"""From an SAE and activations to candidate edges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from topk_ortho.config import ConfigError
from topk_ortho.inspect.atlas.nearest import nearest_rows
from topk_ortho.inspect.atlas.rules import LEAST_COSINE, Edge, find_edges
from topk_ortho.inspect.atlas.statistics import LEAST_TOKENS, Statistics, statistics
from topk_ortho.inspect.atlas.tally import Sums, Tally
from topk_ortho.inspect.atlas.truth import TruthMeter
from topk_ortho.inspect.evaluate.data import Measurable
from topk_ortho.inspect.evaluate.measure import phase_if
from topk_ortho.inspect.evaluate.opening import Opened, opened
from topk_ortho.metrics.health import health
from topk_ortho.sae import SAE
from topk_ortho.training.evaluation import rows_at_once

LEAST_Z = 3.0
NEIGHBOURS, REFERENCES = 32, 64
"""Candidate parents and references of each feature of a wide dictionary; a narrow one has more."""
CELLS = 2**16
"""Features times candidates, up to which a narrow dictionary has more of them."""
REFERENCE_SEED = 0
MEMORY = 2**30
"""Bytes beside the SAE, unless given."""
FIRINGS_WANTED = 300
"""Firings of a child that rule A wants."""
STEADY = 0.1
"""Relative spread of the codes of a feature, below which strengths count as hardly varying."""


@dataclass(frozen=True)
class Atlas:
    """What `topk-ortho atlas` found.

    Attributes:
        sae: path, architecture, width and number of features.
        data: what was measured on, in words.
        rows: activations.
        settings: thresholds that can be chosen.
        figures: explained variance, L0, share of dead features, features that fire often enough.
        warnings: what stands against believing what follows.
        edges: best first.
        columns: features by what became of their column.
        truth: verdicts, where the true features are known.
        spike_in: the same counts on features planted in this data, None where not asked for.
    """

    sae: dict[str, Any]
    data: str
    rows: int
    settings: dict[str, Any]
    figures: dict[str, Any]
    warnings: tuple[str, ...]
    edges: tuple[Edge, ...]
    columns: dict[str, int]
    truth: dict[str, Any] | None
    spike_in: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns plain lists, dicts, numbers and None."""
        return {"experimental": True, **asdict(self)}


def atlas(
    sae: Path,
    given: Mapping[str, Any],
    *,
    samples: int = 200_000,
    least_z: float = LEAST_Z,
    neighbours: int | None = None,
    memory_budget: int = MEMORY,
    spike_in_steps: int | None = None,
    split: Literal["auto", "eval", "all"] = "auto",
    device: str = "auto",
    allow_pickle: bool = False,
    allow_mismatch: bool = False,
    progress: bool = True,
) -> Atlas:
    """Returns the candidate edges of an SAE.

    Args:
        sae: a run folder, or the folder of an SAE.
        given: settings of the data, by their names as options; those of a run's own data unless
            given.
        samples: activations to measure on.
        least_z: of rule A.
        neighbours: candidate parents of each feature; by the number of features unless given.
        memory_budget: bytes beside the SAE.
        spike_in_steps: of a training on the same data with planted features, in which the rules
            are measured; none unless given.
        split: the part of the data, as `understand` has it.
        device: where to measure.
        allow_pickle: open an SAE of dictionary_learning.
        allow_mismatch: measure even though the SAE names another model or hook point.
        progress: whether a bar is shown.

    Raises:
        ConfigError: no such SAE, data that cannot be used or does not fit it, or a memory budget
            that the candidates do not fit.
    """
    found = opened(
        sae, given, split=split, device=device, allow_pickle=allow_pickle,
        allow_mismatch=allow_mismatch, no_transcoder="topk-ortho atlas",
    )  # fmt: skip
    seen = look(
        found, str(sae), samples=samples, least_z=least_z, neighbours=neighbours,
        memory_budget=memory_budget, progress=progress,
    )  # fmt: skip
    if spike_in_steps is None:
        return seen
    from topk_ortho.inspect.atlas.spike_in import spike_in

    return replace(seen, spike_in=spike_in(found, seen, steps=spike_in_steps, samples=samples))


@torch.no_grad()
def look(
    found: Opened,
    name: str,
    *,
    samples: int,
    least_z: float = LEAST_Z,
    neighbours: int | None = None,
    memory_budget: int = MEMORY,
    progress: bool = False,
) -> Atlas:
    """The same for an SAE that is open."""
    module, data = found.module, found.data
    k = candidates(module.d_sae, neighbours)
    stats, sums = measured(
        module, data, samples=samples, k=k, memory_budget=memory_budget, progress=progress
    )
    edges = find_edges(stats, rows=sums.rows, least_z=least_z)
    figures = _figures(sums)
    return Atlas(
        sae={"path": name, "kind": module.config.kind, "d_in": module.d_in,
             "d_sae": module.d_sae, **found.named},
        data=found.asked.config.activations,
        rows=sums.rows,
        settings={"least_z": least_z, "neighbours": k},
        figures=figures,
        warnings=tuple(warnings(figures, sums, stats)),
        edges=edges,
        columns=_columns(stats, edges),
        truth=_truth(module, data, samples, edges, stats),
    )  # fmt: skip


def candidates(d_sae: int, neighbours: int | None) -> int:
    """Returns the number of candidate parents of each feature."""
    if neighbours is not None and neighbours >= d_sae:
        raise ConfigError(
            f"--neighbours {neighbours} was given, but the SAE has {d_sae} features, and fewer "
            "were expected; lower it, or leave it out."
        )
    return min(d_sae - 1, neighbours or max(NEIGHBOURS, CELLS // d_sae))


def measured(
    sae: SAE, data: Measurable, *, samples: int, k: int, memory_budget: int, progress: bool
) -> tuple[Statistics, Sums]:
    """Returns the statistics of all candidate pairs, and the sums that they are from.

    Raises:
        ConfigError: the SAE is for activations of another width, or the budget is too small.
    """
    if sae.d_in != data.source.d_in:
        raise ConfigError(
            f"the SAE reads activations of width {sae.d_in}, but the data has "
            f"{data.source.d_in}; give the model and hook point (or files) it was trained on."
        )
    n = min(sae.d_sae, max(REFERENCES, CELLS // sae.d_sae))
    drawn = torch.randperm(sae.d_sae, generator=torch.Generator().manual_seed(REFERENCE_SEED))
    references = drawn[:n].sort().values.to(sae.W_dec.device)
    rows = _buffer_rows(sae, k, n, memory_budget)
    nearest = nearest_rows(sae.W_dec.detach(), k, memory_budget=memory_budget // 8)
    tally = Tally(sae, nearest, references, buffer_rows=rows)
    with phase_if(progress, "reading the activations", samples) as work:
        _over(data, samples, sae, tally.update, work.advance)
    sums = tally.finish()
    return statistics(sae, nearest, references, sums), sums


def _over(
    data: Measurable,
    samples: int,
    sae: SAE,
    update: Callable[..., None],
    progress: Callable[[int], object],
) -> None:
    for block in data.blocks(samples, rows=rows_at_once(sae.d_sae)):
        update(block.x.to(sae.W_dec.device))
        progress(len(block.x))


def _buffer_rows(sae: SAE, k: int, references: int, memory_budget: int) -> int:
    """Residuals that fit beside the sums."""
    sums = sae.d_sae * (96 * k + 48 * references) + 16 * sae.d_in**2
    left = memory_budget - sums
    if left < memory_budget // 8:
        raise ConfigError(
            f"--memory-budget {memory_budget:,} was given, but the sums of {k} candidates for each "
            f"of {sae.d_sae:,} features take {sums:,} bytes; raise it, or lower --neighbours."
        )
    return max(rows_at_once(sae.d_sae), min(2**16, left // (12 * sae.d_in)))


def _figures(sums: Sums) -> dict[str, Any]:
    variance = sums.x_squared - float(sums.x.square().sum()) / max(sums.rows, 1)
    return {
        "explained_variance": 1 - sums.squared / variance if variance > 0 else None,
        "l0": float(sums.n.sum()) / max(sums.rows, 1),
        "dead_features": float((sums.n == 0).double().mean()),
        "judged_features": int((sums.n >= LEAST_TOKENS).sum()),
        "steady_strength": _steadiness(sums),
    }


def _steadiness(sums: Sums) -> float | None:
    """Median over features of the relative spread of their codes where they fire."""
    n, f, ff = sums.n, sums.f, sums.ff
    alive = n >= LEAST_TOKENS
    if not bool(alive.any()):
        return None
    mean = f[alive] / n[alive]
    spread = (ff[alive] / n[alive] - mean**2).clamp(min=0).sqrt() / mean
    return float(spread.median())


def warnings(figures: Mapping[str, Any], sums: Sums, s: Statistics) -> list[str]:
    """Returns what stands against believing the edges, worst first."""
    out = []
    if reason := health(figures):
        out.append(f"The SAE is not healthy: {reason}.")
    spread = figures["steady_strength"]
    if spread is not None and spread < STEADY:
        out.append(
            f"Strengths hardly vary (median relative spread {spread:.2f}): rule A is blind here, "
            "and what it does not list may well be absorbed."
        )
    few = int(((sums.n >= LEAST_TOKENS) & (sums.n < FIRINGS_WANTED)).sum())
    alive = figures["judged_features"]
    if few > alive / 2:
        out.append(
            f"{few:,} of {alive:,} features fire on fewer than {FIRINGS_WANTED} tokens; more "
            "--samples find more."
        )
    if figures["dead_features"] > 0.1:
        out.append(
            f"{figures['dead_features']:.0%} of the features never fire here, and are not judged."
        )
    return out


def _columns(s: Statistics, edges: tuple[Edge, ...]) -> dict[str, int]:
    """How many features are not judged, have no candidate, a refused one, or a parent."""
    alive = s.n >= LEAST_TOKENS
    judged = alive & (s.judged & (s.cosine > LEAST_COSINE)).any(1)
    found = len({edge.child for edge in edges})
    return {
        "fires_too_rarely": int((~alive).sum()),
        "no_candidate": int((alive & ~judged).sum()),
        "refused": int(judged.sum()) - found,
        "has_parent": found,
    }


def _truth(
    sae: SAE, data: Measurable, samples: int, edges: tuple[Edge, ...], s: Statistics
) -> dict[str, Any] | None:
    truth = data.source.truth
    if truth is None:
        return None
    meter = TruthMeter(sae, truth, edges, s.strength)
    for block in data.blocks(samples, rows=rows_at_once(sae.d_sae)):
        assert block.fired is not None
        meter.update(block.x, block.fired)
    return meter.result()
