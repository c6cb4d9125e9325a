"""The numbers that a run's components are made of, from its settings.

What depends on the data is taken at its largest (a new set of pairs on every step), or half way
between its bounds (how many features are dead).
"""

from __future__ import annotations

from dataclasses import dataclass

from topk_ortho.activations.synthetic import BLOCK_ROWS, resolve
from topk_ortho.config import DEFAULT_PER_FEATURE, TrainConfig
from topk_ortho.constraint.criteria.criteria import COACTIVE
from topk_ortho.sae.jumprelu import SURPLUS
from topk_ortho.sae.matryoshka import default_prefixes
from topk_ortho.sae.sae import SPARSE_DENSITY

FLOAT, DOUBLE, INT = 4, 8, 8
RELUS = ("relu", "jumprelu")  # their code is as dense as their thresholds leave it
# Per true feature and row of a block: on or off, magnitude, two random numbers, a child's place.
TRUTH_CELL = 12
RUNNING = 20  # per feature: rate, threshold and energy in float32, steps of silence in int64
ENTRY = 2 * INT + FLOAT  # row, column and value
SORTED_ENTRY = 3 * INT + 2 * FLOAT  # the same by feature, their order, and a gradient
# torch.topk on CPU sorts (value, place) pairs of the whole row that it looks at.
TOPK_CELL = 16
MASK = 1  # per cell: whether it reaches the bar
# Per active entry of a batch, twice over: place, value, and torch.topk's (value, place) pairs.
ABOVE_BAR = 2 * (2 * INT + FLOAT + 16)
CHOSEN = 2 * INT + FLOAT  # i, j and score
PRICED = 24  # per pair in Rust: who moves, threshold, weight, and its place in the child's group
PRICED_IN_TORCH = 96  # per pair: entries by row, cosine, overlap and price, and their gradients
RANKED = 64  # per pair in a selector: candidates of which k stay, and the answer
SCORED = 96  # per pair that fires together: (i, j, sum), and what scoring makes of it
PRODUCTS = 6 * 2**20  # what the library of matrix products keeps for itself; measured
TILED_PAIR = 2 * INT + DOUBLE  # that fires together: (i, j, sum)
RECORD = 64  # of the history, one pair
SLOT = 8  # of the history's index


@dataclass(frozen=True)
class Sizes:
    """Numbers that the components are made of.

    Attributes:
        rows: bytes of one `[batch, d_in]`.
        matrix: bytes of one `[d_sae, d_in]`, float32.
        dense: bytes of one `[batch, d_sae]` as the encoder gives it.
        entries: active entries of a batch.
        k: pairs of one selection.
    """

    config: TrainConfig
    d_in: int
    gpu: bool

    @property
    def rows(self) -> int:
        return FLOAT * self.config.batch_size * self.d_in

    @property
    def matrix(self) -> int:
        return FLOAT * self.d_in * self.config.sae.d_sae

    @property
    def parameters(self) -> int:
        return 2 * self.matrix + FLOAT * (self.config.sae.d_sae + self.d_in)

    @property
    def cells(self) -> int:
        return self.config.batch_size * self.config.sae.d_sae

    @property
    def dense(self) -> int:
        rough = self.gpu or self.screened  # bfloat16, on a GPU under autocast
        return self.cells * (2 if rough else FLOAT)

    @property
    def screened(self) -> bool:
        """Whether a bfloat16 product screens the features."""
        return self.sparse and self.config.sae.bf16_prefilter

    @property
    def sparse(self) -> bool:
        sae = self.config.sae
        return not self.gpu and sae.kind not in RELUS and sae.k < SPARSE_DENSITY * sae.d_sae

    @property
    def priced_in_rust(self) -> bool:
        """Whether loss and gradient of the pairs come from one pass (`penalty/native.py`)."""
        penalty = self.config.penalty
        return not self.gpu and penalty.gradient == "child-only" and penalty.tau != "mean-std"

    @property
    def ranks_batch(self) -> bool:
        """Whether the code is the top of the whole batch."""
        return self.config.sae.kind in ("batch-topk", "matryoshka")

    @property
    def n_true(self) -> int:
        """True features in the data."""
        if self.config.plant.enabled:
            return self.config.plant.roots * (1 + self.config.plant.children)
        if self.config.activations != "synthetic":
            return 0
        c = resolve(self.config.synthetic)
        return (c.roots or 0) * (1 + (c.children or 0)) + (c.independent or 0)

    @property
    def filling(self) -> int:
        """Bytes of the buffer: whole blocks."""
        rows = max(self.config.buffer_rows, self.config.batch_size)
        if self.config.activations == "synthetic":
            rows = -(-rows // BLOCK_ROWS) * BLOCK_ROWS
        return FLOAT * self.d_in * rows

    @property
    def block(self) -> int:
        """Bytes of one block of the data in the making."""
        return BLOCK_ROWS * (2 * FLOAT * self.d_in + TRUTH_CELL * self.n_true)

    @property
    def l0(self) -> float:
        """Active features of a row; about half of them all in a ReLU SAE at the start."""
        sae = self.config.sae
        if sae.kind == "relu":
            return sae.d_sae / 2
        return min(sae.d_sae, SURPLUS * sae.k) if sae.kind == "jumprelu" else sae.k

    @property
    def entries(self) -> int:
        return round(self.l0 * self.config.batch_size)

    @property
    def products(self) -> int:
        """Pairs of active entries of one row, over the batch: no more pairs fire together."""
        return round(self.entries * max(0.0, self.l0 - 1) / 2) or 1

    @property
    def n_pairs(self) -> int:
        d_sae = self.config.sae.d_sae
        return d_sae * (d_sae - 1) // 2

    @property
    def k(self) -> int:
        c = self.config.pairs
        if not self.config.constrained:
            return 0
        if c.criterion == "ortsae":
            return self.config.sae.d_sae
        k = round((c.per_feature or DEFAULT_PER_FEATURE) * self.config.sae.d_sae)
        if c.fraction is not None:
            k = round(max(c.fraction, c.final_fraction or 0.0) * self.n_pairs)
        if c.criterion in COACTIVE:
            k = min(k, self.products)
        return min(k, self.n_pairs, c.max_pairs or self.n_pairs)

    @property
    def prefixes(self) -> tuple[float, ...]:
        """Share of the features behind each reconstruction."""
        sae = self.config.sae
        if sae.kind != "matryoshka":
            return (1.0,)
        stops = sae.prefixes or default_prefixes(sae.d_sae)
        return tuple(stop / sae.d_sae for stop in stops)

    @property
    def dead(self) -> float:
        """Share of the features that will have died: half of those that can have fired lately."""
        sae = self.config.sae
        if not sae.aux_k or self.config.steps <= sae.dead_after + 1:
            return 0.0
        fired = min(1.0, self.entries * (sae.dead_after + 1) / sae.d_sae)
        return 1 - fired / 2
