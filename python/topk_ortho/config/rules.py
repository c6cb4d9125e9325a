"""The rules that settings have to meet; a refusal says what was given, expected, and what to do."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Protocol

from topk_ortho.config import (
    ConfigError,
    HistoryConfig,
    PairsConfig,
    PenaltyConfig,
    SAEConfig,
    TrainConfig,
)
from topk_ortho.config.registry import ARCHITECTURES, CRITERIA
from topk_ortho.config.toml import canonical


def check(c: TrainConfig) -> TrainConfig:
    """Return the configuration with its names as the options have them.

    Raises:
        ConfigError: a setting is out of range or contradicts another one.
    """
    c = canonical(c)
    _check_ranges(c)
    _check_run(c)
    _check_sae(c.sae)
    check_constraint(c, d_sae=c.sae.d_sae)
    _check_data(c)
    return c


class ConstraintSettings(Protocol):
    """What a constraint is made of, in a run or in a loop of someone else's."""

    @property
    def seed(self) -> int: ...
    @property
    def pairs(self) -> PairsConfig: ...
    @property
    def penalty(self) -> PenaltyConfig: ...
    @property
    def history(self) -> HistoryConfig: ...


def check_constraint(c: ConstraintSettings, *, d_sae: int | None = None) -> None:
    """Check the settings of a constraint, whose names are as the options have them.

    Args:
        c: the settings.
        d_sae: number of features, where it is known.

    Raises:
        ConfigError: a setting is out of range or contradicts another one.
    """
    _check_ranges(c, ("seed", "pairs.", "penalty.", "history."))
    _check_pairs(c.pairs)
    _check_criterion(c.pairs, d_sae)
    _check_penalty(c.penalty)
    _require(
        c.penalty.tau != "stability" or c.history.enabled,
        "--penalty.tau stability was given without a history",
        "it weighs pairs by their history",
        "leave --history.no-enabled out, or take another --penalty.tau",
    )


def _require(condition: bool, given: str, expected: str, fix: str) -> None:
    if not condition:
        raise ConfigError(f"{given}, but {expected}; {fix}.")


_LARGEST = 1.7e308
_SMALLEST = 5e-324
_BELOW_ONE = 1 - 2**-53
_FROM_0 = (0, _LARGEST, "0 or more")
_FROM_1 = (1, _LARGEST, "1 or more")
_ABOVE_0 = (_SMALLEST, _LARGEST, "a finite number above 0")
_RATE = (_SMALLEST, 1, "a rate above 0 and up to 1")
_SHARE = (0, 1, "a share in [0, 1]")
_COSINE = (-1, 1, "a cosine in [-1, 1]")
_DECAY = (0, _BELOW_ONE, "a number from 0 and below 1")
_RANGES: dict[str, tuple[float, float, str]] = {
    "seed": (0, 2**63 - 1, "a whole number from 0 to 2^63 - 1"),
    "threads": _FROM_0,
    "warmup-steps": _FROM_0,
    "lr": _ABOVE_0,
    "beta1": _DECAY,
    "beta2": _DECAY,
    "grad-clip": _FROM_0,
    "context": (3, _LARGEST, "3 or more, BOS and two tokens,"),
    "sae.aux-k": _FROM_0,
    "sae.aux-coefficient": _FROM_0,
    "sae.dead-after": _FROM_0,
    "sae.bandwidth": (_SMALLEST, 2, "a share of the threshold above 0 and up to 2"),
    "pairs.per-feature": _ABOVE_0,
    "pairs.min-support": _FROM_0,
    "pairs.schedule-steps": _FROM_1,
    "penalty.coefficient": _FROM_0,
    "penalty.threshold": _COSINE,
    "history.decay": (_SMALLEST, _BELOW_ONE, "a number above 0 and below 1"),
    "history.capacity": _FROM_1,
    "history.queue": _FROM_1,
    "plant.roots": _FROM_1,
    "plant.children": _FROM_0,
    "plant.rate-high": _RATE,
    "plant.rate-low": _RATE,
    "plant.child-probability": _SHARE,
    "plant.sibling-exponent": _FROM_0,
    "plant.magnitude": _ABOVE_0,
    "plant.magnitude-std": _FROM_0,
    "plant.parent-child-cosine": _COSINE,
    "synthetic.d-in": _FROM_1,
    "synthetic.roots": _FROM_0,
    "synthetic.children": _FROM_0,
    "synthetic.independent": _FROM_0,
    "synthetic.root-rate-high": _RATE,
    "synthetic.root-rate-low": _RATE,
    "synthetic.independent-rate-high": _RATE,
    "synthetic.independent-rate-low": _RATE,
    "synthetic.child-probability": _SHARE,
    "synthetic.sibling-exponent": _FROM_0,
    "synthetic.parent-child-cosine": _COSINE,
    "synthetic.magnitude-mean": _FROM_0,
    "synthetic.magnitude-std": _FROM_0,
    "synthetic.noise": _FROM_0,
}
"""Option: least, most, and both in words; NaN is in no range."""


def _check_ranges(c: Any, tables: tuple[str, ...] = ("",)) -> None:
    for option, (least, most, words) in _RANGES.items():
        if not option.startswith(tables):
            continue
        value = attrgetter(option.replace("-", "_"))(c)
        _require(
            value is None or least <= value <= most,
            f"--{option} {value} was given",
            f"{words} was expected",
            "see --help for the default",
        )


def _check_run(c: TrainConfig) -> None:
    _require(
        c.steps >= 1,
        f"--steps {c.steps} was given",
        "a run needs at least 1 step",
        "give --steps 1 or more",
    )
    for name, needless in (("init-sha256", c.init_sha256), ("allow-pickle", c.allow_pickle)):
        _require(
            c.init_from is not None or not needless,
            f"--{name} was given without --init-from",
            "it says how the SAE there is opened",
            "add --init-from DIR, or leave it out",
        )
    for name, value in (
        ("batch-size", c.batch_size),
        ("log-every", c.log_every),
        ("checkpoint-every", c.checkpoint_every),
        ("keep-checkpoints", c.keep_checkpoints),
        ("eval-samples", c.eval_samples),
        ("buffer-rows", c.buffer_rows),
    ):
        _require(
            value >= 1,
            f"--{name} {value} was given",
            "a whole number from 1 was expected",
            f"give --{name} 1 or more",
        )
    _require(
        0 <= c.decay_fraction <= 1,
        f"--decay-fraction {c.decay_fraction} was given",
        "a share in [0, 1] was expected",
        "try the default, 0.3",
    )


def _check_sae(c: SAEConfig) -> None:
    _require(
        c.d_sae >= 2,
        f"--sae.d-sae {c.d_sae} was given",
        "a pair needs at least 2 features",
        "give --sae.d-sae 2 or more",
    )
    _require(
        0 < c.k <= c.d_sae,
        f"--sae.k {c.k:g} was given",
        f"0 < k <= d_sae = {c.d_sae} was expected",
        "lower --sae.k or raise --sae.d-sae",
    )
    prefixes = list(c.prefixes)
    if prefixes:
        _require(
            prefixes == sorted(set(prefixes)) and prefixes[0] >= 1 and prefixes[-1] == c.d_sae,
            f"--sae.prefixes {' '.join(map(str, prefixes))} was given",
            f"rising numbers that end in d_sae = {c.d_sae} were expected",
            "correct the list",
        )
    ARCHITECTURES[c.kind].check(c)


def _check_pairs(c: PairsConfig) -> None:
    for name, value in (("fraction", c.fraction), ("final-fraction", c.final_fraction)):
        _require(
            value is None or 0 < value <= 1,
            f"--pairs.{name} {value} was given",
            "a share of the pairs in (0, 1] was expected",
            "0.001 is 0.1 % of them",
        )
    _require(
        c.fraction is None or c.per_feature is None,
        f"--pairs.fraction {c.fraction} and --pairs.per-feature {c.per_feature} were both given",
        "they say the same thing, k, in two ways",
        "leave one of them out",
    )
    if c.schedule != "constant":
        _require(
            c.fraction is not None and c.final_fraction is not None,
            f"--pairs.schedule {c.schedule} was given",
            "it needs --pairs.fraction and --pairs.final-fraction",
            "give both, such as 0.001 and 0.005",
        )
    if c.fraction_of == "active":
        _require(
            c.fraction is not None,
            "--pairs.fraction-of active was given",
            "it says what --pairs.fraction is a share of",
            "give --pairs.fraction too",
        )
    _require(
        c.max_pairs is None or c.max_pairs >= 1,
        f"--pairs.max-pairs {c.max_pairs} was given",
        "a selection needs at least 1 pair",
        "raise it, or leave it out",
    )
    _require(
        c.memory_budget >= 2**20,
        f"--pairs.memory-budget {c.memory_budget} was given",
        "at least 1048576 bytes (1 MiB) were expected",
        "the default is 268435456",
    )


def _check_criterion(c: PairsConfig, d_sae: int | None) -> None:
    if c.criterion == "none":
        return
    criterion = CRITERIA[c.criterion]
    for name in ("fraction", "per-feature", "max-pairs"):
        size = getattr(c, name.replace("-", "_"))
        _require(
            size is None or not criterion.own_size,
            f"--pairs.{name} {size} was given with --pairs.criterion {c.criterion}",
            "it decides by itself how many pairs it takes",
            "leave it out",
        )
    _require(
        d_sae is None or d_sae >= criterion.least_features,
        f"--sae.d-sae {d_sae} was given with --pairs.criterion {c.criterion}",
        f"it chooses among at least {criterion.least_features} features",
        f"give --sae.d-sae {criterion.least_features} or more",
    )


def _check_penalty(c: PenaltyConfig) -> None:
    _require(
        0 <= c.ramp <= 1,
        f"--penalty.ramp {c.ramp} was given",
        "a share of the steps in [0, 1] was expected",
        "try the default, 0.05",
    )
    for name, value in (("every-n", c.every_n), ("refresh-every", c.refresh_every)):
        _require(
            value >= 1,
            f"--penalty.{name} {value} was given",
            "a whole number from 1 was expected",
            "1 is every step",
        )


def _check_data(c: TrainConfig) -> None:
    if c.activations == "language-model":
        _require(
            bool(c.model),
            "--activations language-model was given without a model",
            "a model name or a local folder was expected",
            "add --model NAME_OR_DIR",
        )
        _require(
            bool(c.text) != bool(c.dataset),
            "--activations language-model was given"
            + (" with both --text and --dataset" if c.text else " without any text"),
            "exactly one source of text was expected",
            "give --text FILE... or --dataset NAME",
        )
        _require(
            bool(c.hook),
            "--activations language-model was given without a hook point",
            "a name such as blocks.3.hook_resid_post was expected",
            "add --hook NAME",
        )
    if c.activations == "files":
        _require(
            c.data is not None,
            "--activations files was given without a folder",
            "a folder of .npy or .safetensors shards was expected",
            "add --data DIR",
        )
