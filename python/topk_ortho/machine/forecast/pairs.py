"""What selection, penalty and history hold."""

from __future__ import annotations

import math
from collections.abc import Iterator

from topk_ortho.constraint.criteria import (
    CRITERIA,
    AllPairs,
    CoactiveSum,
    Drawn,
    OnePerFeature,
)
from topk_ortho.constraint.orthogonality import LEAST_CAPACITY, PAIRS_PER_ENTRY
from topk_ortho.constraint.selection.paths import DENSE_OPERATIONS_PER_PRODUCT
from topk_ortho.machine.forecast.component import Component, between, since
from topk_ortho.machine.forecast.sizes import (
    CHOSEN,
    DOUBLE,
    ENTRY,
    FLOAT,
    INT,
    PRICED,
    PRICED_IN_TORCH,
    RANKED,
    RECORD,
    SCORED,
    SLOT,
    TILED_PAIR,
    Sizes,
)


def pairs(s: Sizes) -> Iterator[Component]:
    """Selection within its budget, and the penalty on what it chose."""
    if not s.k:
        return
    size = "--pairs.per-feature"
    budget = "--pairs.memory-budget"
    criterion = CRITERIA[s.config.pairs.criterion]
    if criterion.required_inputs & {"gradient", "energy"}:
        gradient = FLOAT * s.entries if s.sparse else s.dense
        yield Component("gradient of the codes", gradient, ("selecting pairs",), "--batch-size")
    yield Component("selection", selection(s), ("selecting pairs",), budget, blocks=4)
    if isinstance(criterion.form, CoactiveSum) and is_dense(s):
        yield from _tiles(s)
    yield Component("chosen pairs", CHOSEN * s.k, since("refilling the buffer"), size,
                    born="selecting pairs", blocks=3)  # fmt: skip
    per_pair = PRICED if s.priced_in_rust else PRICED_IN_TORCH
    yield Component("penalty", per_pair * s.k, between("penalty", "backward pass"), size, blocks=8)
    begins = "penalty" if s.priced_in_rust else "backward pass"
    yield Component("gradient of the penalty", s.matrix, between(begins, "backward pass"),
                    "--sae.d-sae")  # fmt: skip


def _tiles(s: Sizes) -> Iterator[Component]:
    """Dense tiles: the pairs of one stay while the next is made, half as many on the diagonal."""
    budget, tiles = "--pairs.memory-budget", ("first tile", "next tile", "selecting pairs")
    d_sae, batch = s.config.sae.d_sae, s.config.batch_size
    side = _side(s, 2 * batch)
    yield Component("codes in float64", DOUBLE * s.entries, tiles, "--sae.k")
    picked = (DOUBLE + ENTRY) * round(s.entries * side / d_sae)
    for tile, now in enumerate(tiles if side < d_sae else tiles[-1:]):
        diagonal = tile == 0 or (now == tiles[-1] and 2 * side >= d_sae)
        cells = side**2 // (2 if diagonal else 1)
        yield Component("codes of a tile", picked, (now,), "--sae.k", blocks=4)
        yield Component("the same, dense", 2 * DOUBLE * batch * side, (now,), budget, blocks=2)
        yield Component("sums of a tile", DOUBLE * side**2, (now,), budget)
        yield Component("pairs of a tile", TILED_PAIR * cells, tiles[tile : tile + 2], budget,
                        blocks=3)  # fmt: skip
        yield Component("their scores", TILED_PAIR * cells, (now,), budget, blocks=3)


def is_dense(s: Sizes) -> bool:
    """Whether pairs that fire together come from dense tiles, as `pairs.paths.is_dense` says."""
    return s.products * DENSE_OPERATIONS_PER_PRODUCT > s.config.batch_size * s.n_pairs


def selection(s: Sizes) -> int:
    """Bytes of one selection's temporaries."""
    c, d_sae, batch = s.config.pairs, s.config.sae.d_sae, s.config.batch_size
    ranked, budget = RANKED * s.k, c.memory_budget
    criterion = CRITERIA[c.criterion]
    form = criterion.form
    if isinstance(form, OnePerFeature):
        return min(budget, ranked + DOUBLE * s.entries)
    if isinstance(form, Drawn) and form.label == "drawn":
        return min(budget, 2 * ranked)
    if criterion.required_inputs == {"W_dec"} and not isinstance(form, CoactiveSum):
        side = _side(s, s.d_in)  # the tile, its k-th value (values and places), who is near
        return min(budget, (2 * FLOAT + INT) * side**2 + ranked)
    if isinstance(form, AllPairs):
        side = _side(s, 4 * batch)
        return min(budget, 3 * DOUBLE * side**2 + 4 * DOUBLE * batch * side + ranked)
    if is_dense(s):
        return ranked
    codes = 20 * s.entries + 28 * d_sae  # rust/core/src/coactivation.rs
    if isinstance(form, CoactiveSum) and (form.score is None or form.rust is not None):
        return codes + ranked
    return codes + ranked + min(budget, SCORED * min(s.products, s.n_pairs))


def _side(s: Sizes, width: int) -> int:
    """Side of a tile, as `pairs.tiles.tile_blocks` chooses it."""
    budget = s.config.pairs.memory_budget
    return min(s.config.sae.d_sae, math.isqrt(budget // 64), max(1, budget // (64 * width)))


def history(s: Sizes) -> Iterator[Component]:
    where, size = "--history.capacity", history_bytes(s)
    yield Component("pair history", size, since("refilling the buffer"), where, "host",
                    born="optimiser")  # fmt: skip
    yield Component("history as bytes", size, ("checkpoint",), where, "host")


def history_bytes(s: Sizes) -> int:
    """The history's records and index, and what waits for it."""
    c, k = s.config, s.k
    if not k or not c.history.enabled:
        return 0
    observations = -(-c.steps // max(c.penalty.every_n, c.penalty.refresh_every))
    capacity = c.history.capacity or max(LEAST_CAPACITY, PAIRS_PER_ENTRY * k)
    records = min(capacity * 5 // 4 + k, observations * k)
    slots = records * 8 // 5  # rust/core/src/table/index.rs
    waiting = min(c.history.queue, observations) * 2 * INT * k
    return RECORD * records + SLOT * slots + waiting
