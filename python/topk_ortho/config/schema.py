"""What a run is: frozen dataclasses, checked by `config_rules.py`.

The names here are the names of the command line (`--pairs.per-feature`) and of the TOML files
(`per_feature` under `[pairs]`, see `config_file.py`). Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from topk_ortho.config.registry import OneOf
from topk_ortho.config.sources import SOURCES

Criterion = Literal[
    "none",
    "coactivation",
    "coactivation-cosine",
    "correlation",
    "conditional",
    "gradient",
    "gradient-accumulated",
    "gradient-batchwise",
    "magnitude",
    "decoder-cosine",
    "coactive-cosine",
    "decoder-projection",
    "suppressed",
    "sign-discrepancy",
    "preactivation",
    "random",
    "random-matched",
    "ortsae",
]
Tau = Literal["fixed", "mean-std", "mean-std-all", "strength", "strength-threshold", "stability"]

DEFAULT_PER_FEATURE = 2.5
COEFFICIENTS = {"coactivation": 2.0, "random": 1.0, "random-matched": 1.0, "ortsae": 0.1}
OTHER_COEFFICIENT = 0.2


@dataclass(frozen=True)
class SyntheticConfig:
    """Forest data with known directions; a number left out comes from the preset."""

    preset: Literal["forest-240", "forest-256"] = "forest-240"
    """Which forest of `docs/method.md` the numbers below default to."""
    d_in: int | None = None
    """Dimensions of an activation."""
    roots: int | None = None
    """Parent features."""
    children: int | None = None
    """Exclusive children of each root."""
    independent: int | None = None
    """Features outside any hierarchy."""
    root_rate_high: float | None = None
    """Firing rate of the most frequent root."""
    root_rate_low: float | None = None
    """Firing rate of the rarest root."""
    independent_rate_high: float | None = None
    """Firing rate of the most frequent independent feature."""
    independent_rate_low: float | None = None
    """Firing rate of the rarest independent feature."""
    child_probability: float | None = None
    """P(some child on | parent on)."""
    sibling_exponent: float | None = None
    """The r-th sibling is weighted r^-exponent."""
    parent_child_cosine: float | None = None
    """Cosine between a child's direction and its parent's."""
    magnitude_mean: float | None = None
    """Mean of a feature's magnitude |N(mean, std)|."""
    magnitude_std: float | None = None
    """Standard deviation of a feature's magnitude."""
    noise: float | None = None
    """Standard deviation of the noise, per dimension."""
    directions_seed: int | None = None
    """Seed of the true directions; the run's seed unless given."""


@dataclass(frozen=True)
class PlantConfig:
    """Known hierarchies added on top of any activations, which gives ground truth on real ones."""

    enabled: bool = False
    """Plant at all; `--plant` for short, and implied by any other option or key of `plant`."""
    roots: int = 8
    """Planted parent features."""
    children: int = 4
    """Exclusive children of each."""
    rate_high: float = 0.4
    """Firing rate of the most frequent root."""
    rate_low: float = 0.1
    """Firing rate of the rarest root."""
    child_probability: float = 0.8
    """P(some child on | parent on)."""
    sibling_exponent: float = 0.5
    """The r-th sibling is weighted r^-exponent."""
    magnitude: float = 0.447
    """Mean magnitude, in units of the square root of the data's total variance before planting."""
    magnitude_std: float = 0.25
    """Standard deviation of the magnitude, as a share of its mean."""
    parent_child_cosine: float = 0.0
    """Cosine between a child's direction and its parent's."""
    seed: int | None = None
    """Seed of directions and firing; the run's seed unless given."""


@dataclass(frozen=True)
class SAEConfig:
    """The dictionary."""

    kind: Literal["topk", "batch-topk", "relu", "jumprelu", "matryoshka"] = "batch-topk"
    """Architecture."""
    d_sae: int = 256
    """Number of features."""
    k: float = 8.0
    """Mean L0 (for `relu` and `jumprelu` the target that the sparsity weight is steered to)."""
    aux_k: int = 16
    """Dead features that reconstruct the residual; 0 switches it off."""
    aux_coefficient: float = 1 / 32
    """Weight of that reconstruction."""
    dead_after: int = 50
    """A feature counts as dead after so many steps without firing."""
    prefixes: tuple[int, ...] = ()
    """Matryoshka prefixes, the last one `d_sae`; `d_sae` times 1/8, 3/8, 1 when empty."""
    bandwidth: float = 0.6
    """`jumprelu`: width of the window in which a threshold's gradient is estimated, as a share of
    the threshold."""
    products: Literal["float32", "bfloat16"] = "float32"
    """On CPU, `bfloat16` screens the features of sparse codes by a bfloat16 product, for processors
    that have them; float32 still decides. CUDA always takes autocast."""


@dataclass(frozen=True)
class PairsConfig:
    """Which pairs."""

    criterion: Criterion = "coactivation"
    """Score of a pair; `none` trains without the constraint."""
    per_feature: float | None = None
    """k as a multiple of `d_sae` (2.5 unless `fraction` is given)."""
    fraction: float | None = None
    """k as a share of the pairs counted by `of`."""
    of: Literal["all", "active"] = "all"
    """`fraction` is of all pairs, or of those with a positive score."""
    schedule: Literal["constant", "linear", "exponential"] = "constant"
    """How `fraction` goes over to `final_fraction`."""
    final_fraction: float | None = None
    """Where the schedule ends."""
    schedule_steps: int | None = None
    """Length of the schedule in steps; the run's length unless given."""
    max_pairs: int | None = None
    """An upper limit on k."""
    min_support: int = 8
    """`correlation`: a pair whose rarer feature fired less often in the batch is no candidate."""
    memory_budget: int = 256 * 2**20
    """Bytes that one selection may use for its temporaries."""
    account: bool = False
    """Log who held how much memory in a selection (`selection_temporaries`), once per log line."""


@dataclass(frozen=True)
class PenaltyConfig:
    """What a pair costs."""

    coefficient: float | None = None
    """Weight of the penalty; by criterion unless given: `coactivation` 2, `random` and
    `random-matched` 1, `ortsae` 0.1, others 0.2."""
    units: Literal["variance", "absolute"] = "variance"
    """`variance`: the coefficient counts in total variances of the data."""
    n: Literal["d-sae", "k"] = "d-sae"
    """The sum over pairs is divided by the number of features, or of pairs."""
    tau: Tau = "fixed"
    """Threshold policy."""
    threshold: float = 0.05
    """τ of `fixed` and `stability`, τ0 of `strength-threshold` (cosine)."""
    sign: Literal["positive", "both"] = "positive"
    """`positive`: only a positive cosine is overlap; `both`: its absolute value."""
    gradient: Literal["child-only", "symmetric"] = "child-only"
    """Which rows move: the rarer feature's, or both."""
    ramp: float = 0.05
    """Share of the steps over which the coefficient rises linearly from 0."""
    every_n: int = 1
    """Apply on every n-th step, n times as strong."""
    refresh_every: int = 1
    """Select on every n-th step and keep the pairs in between."""


@dataclass(frozen=True)
class HistoryConfig:
    """What is remembered of the chosen pairs."""

    enabled: bool = True
    """Keep a history (`history.bin`)."""
    decay: float = 0.99
    """β of the moving average of "selected", per observation."""
    capacity: int | None = None
    """Entries kept; 32 k and at least 2^20 unless given."""
    queue: int = 8
    """Observations that may wait for the background thread."""


@dataclass(frozen=True)
class TrainConfig:
    """One arm: data, dictionary, pairs, penalty, optimiser."""

    seed: int = 0
    """Seed of data, initialisation and selection."""
    steps: int = 2000
    """Optimiser steps of the whole run; all schedules follow it."""
    batch_size: int = 512
    """Activations per step."""
    lr: float = 5e-3
    """Adam's peak learning rate."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    decay_fraction: float = 0.3
    """Share of the steps, at the end, over which the learning rate falls to 0."""
    beta1: float = 0.9
    """Adam's β1."""
    beta2: float = 0.999
    """Adam's β2."""
    grad_clip: float = 100.0
    """Largest norm of the gradient; above it the gradient is scaled down. 0 switches it off."""
    log_every: int = 50
    """Steps between two lines of `metrics.jsonl`."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept."""
    eval_samples: int = 30_000
    """Held-out activations that the figures at the end are taken on."""
    with_baseline: bool = False
    """Train the arm without the constraint as well, in `baseline/`, and compare."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, ..."""
    threads: int = 0
    """CPU threads; 0 chooses by the size of a step."""

    init_from: Path | None = None
    """Start from this trained SAE: a run folder, or a folder of SAELens, dictionary_learning or
    sparsify. Architecture, `d_sae`, `k` and weights come from it."""
    init_sha256: str | None = None
    """Which SAE that is, by its files' content; found out by itself, and another one is refused."""
    allow_pickle: bool = False
    """Open the `ae.pt` of dictionary_learning, a pickle; only tensors are taken from it."""

    activations: Annotated[str, OneOf(SOURCES)] = "synthetic"
    """Where activations come from."""
    model: str = ""
    """`language-model`: a model name or a local folder."""
    text: tuple[Path, ...] = ()
    """`language-model`: text files; blank lines separate documents."""
    dataset: str = ""
    """`language-model`: name of a Hugging Face dataset instead of text files."""
    hook: str = ""
    """`language-model`: hook point, such as `blocks.3.hook_resid_post`."""
    context: int = 128
    """`language-model`: tokens per context, BOS included."""
    data: Path | None = None
    """`files`: folder of `.npy` or `.safetensors` shards."""
    buffer_rows: int = 131_072
    """Activations in the shuffling buffer."""

    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    plant: PlantConfig = field(default_factory=PlantConfig)
    sae: SAEConfig = field(default_factory=SAEConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    history: HistoryConfig = field(default_factory=HistoryConfig)

    @property
    def constrained(self) -> bool:
        """Whether the arm has a penalty at all."""
        return self.pairs.criterion != "none"

    def without_constraint(self) -> TrainConfig:
        """The same arm, same seed and data order, without the penalty."""
        return replace(self, with_baseline=False, pairs=replace(self.pairs, criterion="none"))

    def coefficient(self) -> float:
        """The penalty's weight, by criterion unless it was given."""
        if self.penalty.coefficient is not None:
            return self.penalty.coefficient
        return COEFFICIENTS.get(self.pairs.criterion, OTHER_COEFFICIENT)
