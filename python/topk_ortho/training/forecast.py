"""What a run will hold at its peak, by component, before its first step: from the settings alone.

A run holds some things all along (weights, Adam's moments, gradients, data, history) and others at
one moment of a step only; the peak is what is held plus the dearest moment. Sizes follow from
shapes. What depends on the data is taken at its largest: all features dead, the history full or
with a new set of pairs on every step. Held against measured peaks, the sum is right within 20 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from topk_ortho.activations.synthetic import resolve
from topk_ortho.config import DEFAULT_PER_FEATURE, TrainConfig
from topk_ortho.sae.jumprelu import SURPLUS
from topk_ortho.sae.sae import SPARSE_DENSITY
from topk_ortho.training import evaluation
from topk_ortho.training.constraint import LEAST_CAPACITY, PAIRS_PER_ENTRY

MiB = 2**20
FLOAT = 4
ALL_ALONG = "all along"
Place = Literal["device", "host"]

RUNNING = 20  # per feature: rate, threshold and energy in float32, steps of silence in int64
RECORD = 64  # of the history, one pair
PLACE = 5  # of the history's index, one bucket
CODE = 112  # per active entry: CSR columns, the sort by feature, and their temporaries
PAIR = 160  # per chosen pair: selected, ranked, grouped by child, cosine and gradient
QUEUED_PAIR = 16  # per pair and observation that waits for the history
# Freed blocks that the C library keeps: those of the data's filling, and a hole in the heap that
# the largest temporary block does not fit in any more. Measured.
HEAP = 80 * MiB
HOLE = 0.65
# torch.topk on CPU sorts (value, place) pairs of the whole row that it looks at.
TOPK_CELL = 16


@dataclass(frozen=True)
class Component:
    """One thing that takes memory.

    Attributes:
        name: what it is.
        bytes: how much, at its largest.
        when: `ALL_ALONG`, or the one moment it exists at.
        place: on the training device or in the memory of the process; the same on CPU.
        setting: the options that lower it.
    """

    name: str
    bytes: int
    when: str
    place: Place
    setting: str


@dataclass(frozen=True)
class Forecast:
    """The components of a run, those of size 0 left out."""

    components: tuple[Component, ...]

    def moment(self, place: Place) -> str:
        """When the peak comes."""
        sums = self._moments(place)
        return max(sums, key=lambda when: sums[when])

    def peak(self, place: Place) -> int:
        """Bytes at the dearest moment, without what the process held before."""
        return self.held(place) + self._moments(place)[self.moment(place)]

    def held(self, place: Place) -> int:
        """Bytes held all along."""
        return sum(c.bytes for c in self.components if c.place == place and c.when == ALL_ALONG)

    def at_peak(self, place: Place) -> list[Component]:
        """What the peak is made of, the largest first."""
        at = (ALL_ALONG, self.moment(place))
        found = [c for c in self.components if c.place == place and c.when in at]
        return sorted(found, key=lambda c: -c.bytes)

    def as_json(self) -> dict[str, Any]:
        """For `manifest.json`."""
        places: tuple[Place, ...] = ("device", "host")
        return {
            "peak_bytes": {place: self.peak(place) for place in places},
            "components": [asdict(c) for c in self.components],
        }

    def _moments(self, place: Place) -> dict[str, int]:
        sums = {ALL_ALONG: 0}
        for c in self.components:
            if c.place == place and c.when != ALL_ALONG:
                sums[c.when] = sums.get(c.when, 0) + c.bytes
        return sums


@dataclass(frozen=True)
class Sizes:
    """Numbers that the components are made of.

    Attributes:
        matrix: bytes of one `[d_sae, d_in]` float32.
        cells: elements of one `[batch, d_sae]`.
        entries: active entries of a batch.
        k: pairs of one selection.
    """

    config: TrainConfig
    d_in: int
    gpu: bool

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
    def sparse(self) -> bool:
        sae = self.config.sae
        return (
            not self.gpu
            and sae.kind not in ("relu", "jumprelu")
            and sae.k < SPARSE_DENSITY * sae.d_sae
        )

    @property
    def n_true(self) -> int:
        """True features that an evaluation matches."""
        if self.config.plant.enabled:
            return self.config.plant.roots * (1 + self.config.plant.children)
        if self.config.activations != "synthetic":
            return 0
        c = resolve(self.config.synthetic)
        return (c.roots or 0) * (1 + (c.children or 0)) + (c.independent or 0)

    @property
    def ranks_batch(self) -> bool:
        """Whether the code is the top of the whole batch."""
        return self.config.sae.kind in ("batch-topk", "matryoshka")

    @property
    def entries(self) -> int:
        """About half of all features fire in a ReLU SAE at the start."""
        if self.config.sae.kind == "relu":
            return self.cells // 2
        surplus = SURPLUS if self.config.sae.kind == "jumprelu" else 1
        return round(surplus * self.config.sae.k * self.config.batch_size)

    @property
    def k(self) -> int:
        c, d_sae = self.config.pairs, self.config.sae.d_sae
        if not self.config.constrained:
            return 0
        if c.criterion == "ortsae":
            return d_sae
        every = d_sae * (d_sae - 1) // 2
        k = round((c.per_feature or DEFAULT_PER_FEATURE) * d_sae)
        if c.fraction is not None:
            k = round(max(c.fraction, c.final_fraction or 0.0) * every)
        if c.criterion not in ("random", "decoder-cosine", "sign-discrepancy", "magnitude"):
            k = min(k, self.products)
        return min(k, every, c.max_pairs or every)

    @property
    def products(self) -> int:
        """Pairs of active entries of one row, over the batch: no more pairs fire together."""
        per_row = self.entries / self.config.batch_size
        return round(self.config.batch_size * per_row * max(0.0, per_row - 1) / 2) or 1


def forecast(config: TrainConfig, *, d_in: int, device: str, cached: int = 0) -> Forecast:
    """The components of one arm.

    Args:
        config: a checked configuration.
        d_in: width of the activations.
        device: type of the training device, `cpu` or `cuda`.
        cached: bytes of activations that their source keeps.
    """
    s = Sizes(config, d_in, gpu=device != "cpu")
    parts = [*_held(s, cached), *_filling(s), *_step(s), *_pairs(s), *_dead(s), *_ends(s)]
    if not s.gpu:
        parts = [replace(c, place="host") for c in (*parts, _kept(s))]
    return Forecast(tuple(c for c in parts if c.bytes))


def _kept(s: Sizes) -> Component:
    d_sae = s.config.sae.d_sae
    largest = max(FLOAT * s.cells, FLOAT * evaluation.rows_at_once(d_sae) * d_sae)
    if s.ranks_batch:
        largest = max(largest, TOPK_CELL * s.cells)
    size = HEAP + round(HOLE * largest)
    return Component("kept by the allocator", size, ALL_ALONG, "host", "")


def _held(s: Sizes, cached: int) -> Iterator[Component]:
    size, c = "--sae.d-sae", s.config
    yield Component("weights", s.parameters, ALL_ALONG, "device", size)
    yield Component("Adam's moments", 2 * s.parameters, ALL_ALONG, "device", size)
    yield Component("gradients", s.parameters, ALL_ALONG, "device", size)
    yield Component("running figures", RUNNING * c.sae.d_sae, ALL_ALONG, "device", size)
    yield Component("data", _filling_bytes(s), ALL_ALONG, "host", "--buffer-rows")
    yield Component("kept activations", cached, ALL_ALONG, "host", "")
    yield Component("pair history", _history_bytes(s), ALL_ALONG, "host", "--history.capacity")


def _filling_bytes(s: Sizes) -> int:
    return FLOAT * s.d_in * max(s.config.buffer_rows, s.config.batch_size)


def _filling(s: Sizes) -> Iterator[Component]:
    """Blocks, their concatenation, its shuffled copy; and the filling before, at a refill."""
    refills = s.config.steps * s.config.batch_size > s.config.buffer_rows
    copies = 3 if refills else 2
    bytes_ = copies * _filling_bytes(s)
    yield Component("filling the buffer", bytes_, "filling the buffer", "host", "--buffer-rows")


def _history_bytes(s: Sizes) -> int:
    c, k = s.config, s.k
    if not k or not c.history.enabled:
        return 0
    observations = -(-c.steps // max(c.penalty.every_n, c.penalty.refresh_every))
    capacity = c.history.capacity or max(LEAST_CAPACITY, PAIRS_PER_ENTRY * k)
    records = min(capacity * 5 // 4 + k, observations * k)
    buckets = 1 << (records * 8 // 7).bit_length()
    waiting = min(c.history.queue, observations) * QUEUED_PAIR * k
    return RECORD * records + PLACE * buckets + waiting


def _step(s: Sizes) -> Iterator[Component]:
    """Moments of the step itself, on the path that it takes."""
    c, where = s.config, "--batch-size, --sae.d-sae"
    cell = 2 if s.gpu else FLOAT  # bfloat16 under autocast
    dense = cell * s.cells
    for moment in ("forward", "pairs", "backward"):
        yield Component("pre-activations", dense, moment, "device", where)
        yield Component("active entries", CODE * s.entries, moment, "device", "--sae.k")
        if not s.sparse:
            yield Component("dense codes", dense, moment, "device", where)
    if not s.sparse:
        yield Component("dense codes in the making", dense, "forward", "device", where)
        yield Component("gradients of codes", 2 * dense, "backward", "device", where)
    if s.ranks_batch and not s.gpu:
        name = "top-k over the batch"
        yield Component(name, TOPK_CELL * s.cells, "forward", "device", where)
    copies = 2 if c.constrained else 1
    name = "gradients in the making"
    yield Component(name, copies * s.matrix, "backward", "device", "--sae.d-sae")


def _pairs(s: Sizes) -> Iterator[Component]:
    """Selection within its budget, and the penalty on what it chose."""
    budget, k = s.config.pairs.memory_budget, s.k
    if not k:
        return
    size = "--pairs.per-feature"
    yield Component("chosen pairs", 20 * k, ALL_ALONG, "device", size)
    yield Component("selection", _selection_bytes(s, budget), "pairs", "device",
                    "--pairs.memory-budget")  # fmt: skip
    yield Component("penalty", PAIR * k, "backward", "device", size)
    if s.gpu:
        yield Component("unit decoder rows", 4 * s.matrix, "backward", "device", "--sae.d-sae")


def _selection_bytes(s: Sizes, budget: int) -> int:
    sums = 256 * s.products + 64 * s.k  # pairs/coactive.py
    if s.config.pairs.criterion in ("random", "magnitude", "gradient-accumulated"):
        return 64 * s.k
    tiled = ("decoder-cosine", "sign-discrepancy", "preactivation", "decoder-projection",
             "suppressed", "ortsae")  # fmt: skip
    if s.config.pairs.criterion in tiled:
        return min(budget, 64 * s.config.sae.d_sae**2)
    return min(budget, sums)


def _dead(s: Sizes) -> Iterator[Component]:
    """Aux-k once features have died: at most as if all had."""
    c = s.config
    if not c.sae.aux_k or c.steps <= c.sae.dead_after:
        return
    where = "--sae.aux-k, --batch-size"
    cell = 2 if s.gpu else FLOAT
    yield Component("aux-k, dense", 3 * cell * s.cells, "backward", "device", where)
    yield Component("aux-k, weights of dead features", 3 * s.matrix, "backward", "device", where)


def _ends(s: Sizes) -> Iterator[Component]:
    """What is written, and what is measured at the end."""
    c = s.config
    if s.k and c.history.enabled:
        stored = _history_bytes(s)
        yield Component("history as bytes", stored, "checkpoint", "host", "--history.capacity")
    if s.gpu:
        yield Component("copy of the state", 3 * s.parameters, "checkpoint", "host", "--sae.d-sae")
    elif s.sparse:
        name = "encoder, row by row"
        yield Component(name, 3 * s.matrix, "checkpoint", "host", "--sae.d-sae")
    cells = evaluation.rows_at_once(c.sae.d_sae) * c.sae.d_sae
    yield Component("measuring", 5 * FLOAT * cells, "evaluation", "device", "--sae.d-sae")
    # Cosines in float64 and what the assignment makes of them, beside the rows in float64.
    matching = 16 * s.n_true * c.sae.d_sae + (4 * s.matrix if s.n_true else 0)
    yield Component("matching of true features", matching, "matching", "host", "--sae.d-sae")
    if s.ranks_batch:
        cells = min(cells, s.cells)
        yield Component("calibrating", 2 * FLOAT * cells, "calibration", "device", "--sae.d-sae")


def readable(bytes_: int) -> str:
    """In MB, or GB from 1,000 MB on."""
    return f"{bytes_ / 1e9:.2f} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.1f} MB"
