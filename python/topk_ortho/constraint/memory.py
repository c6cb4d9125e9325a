"""The memory that a selection, its penalty and the history of its pairs take."""

from __future__ import annotations

import math
from collections.abc import Iterator

from topk_ortho.config import DEFAULT_PER_FEATURE
from topk_ortho.config.penalty import pair_weight
from topk_ortho.constraint.criteria import CRITERIA, AllPairs, CoactiveSum, Drawn, OnePerFeature
from topk_ortho.constraint.selection.paths import DENSE_OPERATIONS_PER_PRODUCT
from topk_ortho.constraint.settings import LEAST_CAPACITY, PAIRS_PER_ENTRY
from topk_ortho.machine.forecast import DOUBLE, FLOAT, INT, Component, Shapes, between, since

ENTRY = 2 * INT + FLOAT  # row, column and value
CHOSEN = 2 * INT + FLOAT  # i, j and score
PRICED = 24  # per pair in Rust: the row that moves, threshold, weight, place in its group
PRICED_IN_TORCH = 96  # per pair: entries by row, cosine, overlap and penalty, and their gradients
RANKED = 64  # per pair in a selector: candidates of which k stay, and the answer
SCORED = 96  # per pair that fires together: (i, j, sum), and what scoring makes of it
TILED_PAIR = 2 * INT + DOUBLE  # that fires together: (i, j, sum)
RECORD = 64  # of the history, one pair
SLOT = 8  # of the history's index


def memory(s: Shapes) -> Iterator[Component]:
    """Yields the selection within its budget, the penalty on what it chose, and the history."""
    k, size, budget = chosen(s), "--pairs.per-feature", "--pairs.memory-budget"
    if not k:
        return
    criterion, penalty = CRITERIA[s.config.pairs.criterion], s.config.penalty
    if criterion.required_inputs & {"gradient", "energy"}:
        gradient = FLOAT * s.entries if s.sparse else s.dense
        yield Component("gradient of the codes", gradient, ("selecting pairs",), "--batch-size")
    yield Component("selection", selection(s, k), ("selecting pairs",), budget)
    if isinstance(criterion.form, CoactiveSum) and is_dense(s):
        yield Component("first dense tile", _tile(s, 0), ("first tile",), budget)
        yield Component("dense tiles", _tile(s, 1), ("selecting pairs",), budget)
    yield Component("chosen pairs", CHOSEN * k, since("refilling the buffer"), size)
    weight = pair_weight(s.config.pairs, penalty)
    in_rust = (
        weight != "activity"
        and not s.gpu
        and penalty.gradient == "child-only"
        and penalty.tau != "mean-std"
    )
    per_pair = PRICED if in_rust else PRICED_IN_TORCH
    yield Component("penalty", per_pair * k, between("penalty", "backward pass"), size)
    begins = "penalty" if in_rust else "backward pass"
    yield Component("gradient of the penalty", s.matrix, between(begins, "backward pass"),
                    "--sae.d-sae")  # fmt: skip
    if weight == "activity":
        gradient = FLOAT * s.entries if s.sparse else s.dense
        yield Component("gradient of the activations", gradient, ("backward pass",), "--batch-size")
    kept, where = history(s, k), "--history.capacity"
    yield Component("pair history", kept, since("refilling the buffer"), where, "host")
    yield Component("history as bytes", kept, ("checkpoint",), where, "host")


def chosen(s: Shapes) -> int:
    """Returns the largest number of pairs in one selection."""
    c, d_sae = s.config.pairs, s.config.sae.d_sae
    if not s.config.constrained:
        return 0
    criterion = CRITERIA[c.criterion]
    if criterion.own_size:
        return len(c.given or ()) // 2 if criterion.listed else d_sae
    k = round((c.per_feature or DEFAULT_PER_FEATURE) * d_sae)
    if c.fraction is not None:
        k = round(max(c.fraction, c.final_fraction or 0.0) * _all_pairs(s))
    if isinstance(criterion.form, CoactiveSum):
        k = min(k, _products(s))
    return min(k, _all_pairs(s), c.max_pairs or _all_pairs(s))


def selection(s: Shapes, k: int) -> int:
    """Returns the bytes of one selection's temporaries, without dense tiles."""
    c, d_sae, batch = s.config.pairs, s.config.sae.d_sae, s.config.batch_size
    ranked, budget = RANKED * k, c.memory_budget
    criterion = CRITERIA[c.criterion]
    form = criterion.form
    if isinstance(form, OnePerFeature):
        return min(budget, ranked + DOUBLE * s.entries)
    if isinstance(form, Drawn) and form.label == "drawn":
        return min(budget, 2 * ranked)
    if criterion.required_inputs == {"W_dec"} and not isinstance(form, CoactiveSum):
        side = _side(s, s.d_out)  # the tile, its k-th value (values and places), who is near
        return min(budget, (2 * FLOAT + INT) * side**2 + ranked)
    if isinstance(form, AllPairs):
        side = _side(s, 4 * batch)
        return min(budget, 3 * DOUBLE * side**2 + 4 * DOUBLE * batch * side + ranked)
    if is_dense(s):
        return ranked
    codes = 20 * s.entries + 28 * d_sae  # rust/core/src/coactivation.rs
    if isinstance(form, CoactiveSum) and (form.score is None or form.rust is not None):
        return codes + ranked
    return codes + ranked + min(budget, SCORED * min(_products(s), _all_pairs(s)))


def is_dense(s: Shapes) -> bool:
    """Returns whether pairs that fire together come from dense tiles, as `paths.is_dense` says."""
    return _products(s) * DENSE_OPERATIONS_PER_PRODUCT > s.config.batch_size * _all_pairs(s)


def history(s: Shapes, k: int) -> int:
    """Returns the bytes of the history's records and index, and of what waits for it."""
    c = s.config
    if not c.history.enabled:
        return 0
    observations = -(-c.steps // max(c.penalty.every_n, c.penalty.refresh_every))
    capacity = c.history.capacity or max(LEAST_CAPACITY, PAIRS_PER_ENTRY * k)
    records = min(capacity * 5 // 4 + k, observations * k)
    slots = records * 8 // 5  # rust/core/src/table/index.rs
    waiting = min(c.history.queue, observations) * 2 * INT * k
    return RECORD * records + SLOT * slots + waiting


def _tile(s: Shapes, before: int) -> int:
    """Returns the bytes of a dense tile; `before`: of a later one, with the last one's pairs."""
    d_sae, batch = s.config.sae.d_sae, s.config.batch_size
    side = _side(s, 2 * batch)
    picked = (DOUBLE + ENTRY) * round(s.entries * side / d_sae)
    codes = DOUBLE * s.entries + picked + 2 * DOUBLE * batch * side
    cells = side**2 if before and side < d_sae else side**2 // 2  # half of the diagonal's are pairs
    earlier = side**2 // 2 if before and side < d_sae else 0
    return codes + DOUBLE * side**2 + TILED_PAIR * (earlier + 2 * cells)


def _side(s: Shapes, width: int) -> int:
    """Returns the side of a tile, as `tiles.tile_blocks` chooses it."""
    budget = s.config.pairs.memory_budget
    return min(s.config.sae.d_sae, math.isqrt(budget // 64), max(1, budget // (64 * width)))


def _products(s: Shapes) -> int:
    """Returns the pairs of active entries, row by row: at most so many pairs fire together."""
    return round(s.entries * max(0.0, s.l0 - 1) / 2) or 1


def _all_pairs(s: Shapes) -> int:
    d_sae = s.config.sae.d_sae
    return d_sae * (d_sae - 1) // 2
