"""The ways to a selection: each takes one batch's inputs and k, and returns the k best pairs.

All give the same set where more than one can compute a criterion; they differ in what they cost.
"""

from __future__ import annotations

import torch

from topk_ortho.constraint.criteria import AllPairs, CoactiveSum, OnePerFeature, Tiles
from topk_ortho.constraint.criteria.inputs import SelectorInputs
from topk_ortho.constraint.criteria.quotient import Quotient
from topk_ortho.constraint.selection.coactive import Block, coactive_blocks
from topk_ortho.constraint.selection.in_slots import BYTES_PER_PRODUCT, best_pairs
from topk_ortho.constraint.selection.native import Coactivation, best_products
from topk_ortho.constraint.selection.owners import Owners
from topk_ortho.constraint.selection.selection import PairSelection, SlotSelection, n_pairs
from topk_ortho.constraint.selection.tiles import tile_blocks, tile_side
from topk_ortho.constraint.selection.topk import Collector, collector
from topk_ortho.sparse.codes import Codes

BYTES_PER_PAIR = 64  # in the collector, and once more in its answer
# A product of two active entries costs about as much as so many multiply-adds of a dense tile.
DENSE_OPERATIONS_PER_PRODUCT = 400


def is_dense(codes: Codes) -> bool:
    """Returns whether dense tiles are cheaper than the products of the active entries."""
    if codes.device.type == "cpu" or codes.per_row is not None:
        products = codes.products
    else:  # about as many: counting them makes the host wait
        products = round(codes.nnz * (codes.nnz / max(1, codes.batch) - 1) / 2)
    tiles = codes.batch * n_pairs(codes.d_sae)
    return products * DENSE_OPERATIONS_PER_PRODUCT > tiles


def coactive(form: CoactiveSum, e: SelectorInputs, k: int, *, min_support: int) -> PairSelection:
    """Selects pairs that fire together, from the active entries alone."""
    tally = _Tally(form, e, k, min_support)
    for block in coactive_blocks(e.codes, form.value(e), memory_budget=_budget_beside(e, k)):
        tally.add(block)
    return tally.selection("coactive")


def owned(
    form: CoactiveSum, e: SelectorInputs, k: int, *, min_support: int, owners: Owners
) -> PairSelection | None:
    """Selects the same on a GPU in Triton; None where its kernels, or its memory, will not do."""
    if not e.codes.nnz or not owners.run_on(e.codes.device) or form.rust is not None:
        return None
    score = form.score(e) if form.score is not None else None
    if not (score is None or isinstance(score, Quotient)):
        return None
    buffers = owners.of(e.codes, k, memory_budget=e.memory_budget)
    if buffers is None:
        return None
    value = form.value(e)
    value = value if value.dtype in (torch.float32, torch.float64) else value.float()
    slots, counts = buffers.best(
        e.codes, value, k, quotient=score, support=min_support if form.min_support else 0
    )
    selection = SlotSelection(
        slots, counts, k, "owners", again=lambda: coactive(form, e, k, min_support=min_support)
    )
    return owners.checked(selection)


def in_slots(
    form: CoactiveSum, e: SelectorInputs, k: int, *, min_support: int
) -> PairSelection | None:
    """Selects the same on a GPU without waiting for it; None where its memory is not enough."""
    products = e.codes.products
    if not products or products * BYTES_PER_PRODUCT > _budget_beside(e, k):
        return None
    slots, counts = best_pairs(
        e.codes,
        form.value(e),
        k,
        products=products,
        score=form.scores(e),
        support=min_support if form.min_support else None,
    )
    return SlotSelection(
        slots, counts, k, "slots", again=lambda: coactive(form, e, k, min_support=min_support)
    )


def native(
    form: CoactiveSum, e: SelectorInputs, k: int, *, min_support: int, rust: Coactivation
) -> PairSelection:
    """Selects the same on CPU, in Rust: sums and cosines entirely, other scores from its sums."""
    best = None
    if form.rust is not None:
        best = form.rust(rust, e, k)
    elif form.score is None and not form.min_support:
        best = rust.best(e.codes, form.value(e), k)
    if best is not None:
        i, j, score, positive = best
        return PairSelection(i, j, score, k, positive, path="native")
    tally = _Tally(form, e, k, min_support)
    for block in rust.blocks(e.codes, form.value(e), memory_budget=e.memory_budget):
        tally.add(block)
    return tally.selection("native")


def dense(form: CoactiveSum, e: SelectorInputs, k: int, *, min_support: int) -> PairSelection:
    """Selects the same from dense tiles, for codes that are hardly sparse."""
    value = form.value(e).double()
    tally = _Tally(form, e, k, min_support)
    gram = Tiles(
        lambda rows, columns: e.codes.dense(rows, value).T @ e.codes.dense(columns, value),
        width=2 * e.codes.batch,
    )
    budget, d_sae = _budget_beside(e, k), e.codes.d_sae
    for i, j, sums, _ in tile_blocks(gram, lambda: None, d_sae=d_sae, k=k, memory_budget=budget):
        tally.add((i, j, sums))
    side = tile_side(d_sae=d_sae, width=gram.width, memory_budget=budget)
    tally.largest_block = side**2
    return tally.selection("dense tiles")


def tiled(form: AllPairs, e: SelectorInputs, k: int) -> PairSelection:
    """Selects among all pairs, tile by tile."""
    best = collector(k, e.codes.device)
    positive = count = 0
    tiles, budget, d_sae = form.tiles(e), _budget_beside(e, k), e.codes.d_sae
    for i, j, score, above in tile_blocks(
        tiles, best.threshold, d_sae=d_sae, k=k, memory_budget=budget
    ):
        best.push(i, j, score.float())
        positive += above
        count += 1
    side = tile_side(d_sae=d_sae, width=tiles.width, memory_budget=budget)
    return PairSelection(
        *best.finish(), k, positive, path="tiles", blocks=count, largest_block=side**2
    )


def product(form: OnePerFeature, e: SelectorInputs, k: int) -> PairSelection:
    """Selects by products of one value per feature, without a matrix."""
    vector = form.vector(e)
    active = int((vector > 0).sum())
    i, j, score = best_products(vector, k)
    return PairSelection(i, j, score, k, n_pairs(active), path="product")


def _budget_beside(e: SelectorInputs, k: int) -> int:
    """Returns what the budget leaves for blocks beside the k pairs that are kept."""
    return max(e.memory_budget // 4, e.memory_budget - BYTES_PER_PAIR * k)


class _Tally:
    """A collector that scores blocks of sums and keeps the best."""

    def __init__(self, form: CoactiveSum, e: SelectorInputs, k: int, min_support: int):
        self.k = k
        self.score = form.scores(e)
        self.counts = e.codes.counts() if form.min_support else None
        self.min_support = min_support
        self.best: Collector = collector(k, e.codes.device)
        self.positive = self.unsupported = self.blocks = self.largest_block = 0

    def add(self, block: Block) -> None:
        i, j, sums = block
        self.blocks += 1
        self.largest_block = max(self.largest_block, i.numel())
        if self.counts is not None:
            supported = torch.minimum(self.counts[i], self.counts[j]) >= self.min_support
            self.unsupported += int((~supported).sum())
            i, j, sums = i[supported], j[supported], sums[supported]
        score = self.score(i, j, sums).float()
        self.positive += int((score > 0).sum())
        threshold = self.best.threshold()
        if threshold is not None:
            keep = ~(score < threshold)
            i, j, score = i[keep], j[keep], score[keep]
        self.best.push(i, j, score)

    def selection(self, path: str) -> PairSelection:
        return PairSelection(
            *self.best.finish(),
            self.k,
            self.positive,
            self.unsupported,
            path,
            blocks=self.blocks,
            largest_block=self.largest_block,
        )
