"""The runs of the source experiment (its two documents A and B) as named recipes (method 8).

They are the experiment as intended: coefficient 0.1, absolute, on the mean over pairs, from the
first step on; both rows of a pair move; the top 0.1 % of all pairs. The package's own advice is
`TrainConfig()`. A recipe says which pairs, what they cost and what is remembered; data,
dictionary and optimiser are those of the configuration it is applied to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from topk_ortho.config import (
    ConfigError,
    HistoryConfig,
    PairsConfig,
    PenaltyConfig,
    Tau,
    TrainConfig,
)
from topk_ortho.config.toml import nearest
from topk_ortho.terminal import aligned

WEIGHT, THRESHOLD = 0.1, 0.1
FRACTION, FINAL_FRACTION, SCHEDULE_STEPS = 0.001, 0.005, 10_000
SMALL_BUDGET = 2**21  # small dictionaries come in blocks too, and it can be halved once


@dataclass(frozen=True)
class Recipe:
    """One run of the source experiment.

    Attributes:
        name: as `--recipe` takes it.
        summary: one line.
        run: where it comes from, such as "A 1, B 1".
        pairs: what differs from the experiment's common choice of pairs.
        tau: the threshold policy.
        history: whether selections are remembered.
    """

    name: str
    summary: str
    run: str
    pairs: dict[str, Any]
    tau: Tau
    history: bool

    def config(self, base: TrainConfig | None = None) -> TrainConfig:
        """The recipe on the data, dictionary and optimiser of `base`, the defaults unless given."""
        base = TrainConfig() if base is None else base
        if self.pairs["criterion"] == "none":
            return base.without_constraint()
        penalty = PenaltyConfig(
            coefficient=WEIGHT,
            units="absolute",
            normalize_by="k",
            tau=self.tau,
            threshold=THRESHOLD,
            gradient="symmetric",
            ramp=0.0,
        )
        return replace(
            base,
            pairs=PairsConfig(**{"fraction": FRACTION, **self.pairs}),
            penalty=penalty,
            history=HistoryConfig(enabled=self.history),
        )


def _recipe(
    name: str,
    run: str,
    summary: str,
    *,
    criterion: str,
    tau: Tau = "fixed",
    history: bool = False,
    **pairs: Any,
) -> Recipe:
    return Recipe(name, summary, run, {"criterion": criterion, **pairs}, tau, history)


RISING: dict[str, Any] = {"final_fraction": FINAL_FRACTION, "schedule_steps": SCHEDULE_STEPS}

_ALL = (
    _recipe("baseline", "B 10", "no pairs; memory tracked throughout", criterion="none"),
    _recipe(
        "fixed-tau",
        "A 1, B 1",
        "most correlated pairs, fixed threshold 0.1",
        criterion="correlation",
    ),
    _recipe(
        "adaptive-tau",
        "A 2",
        "pairs that fire together most, threshold at mean + std of their cosines",
        criterion="coactivation",
        tau="mean-std",
    ),
    _recipe(
        "strength-tau",
        "B 2",
        "most correlated pairs, each weighed by its correlation",
        criterion="correlation",
        tau="strength",
    ),
    _recipe(
        "stability",
        "B 3",
        "the same, with a history of the selection",
        criterion="correlation",
        tau="strength",
        history=True,
    ),
    _recipe(
        "gradient",
        "B 4",
        "pairs by the product of their reconstruction gradients",
        criterion="gradient",
        tau="strength",
        history=True,
    ),
    _recipe(
        "gradient-accumulated",
        "B 5",
        "the same from gradients averaged over batches, one number per feature",
        criterion="gradient-accumulated",
        tau="strength",
        history=True,
    ),
    _recipe(
        "gradient-batchwise",
        "B 6",
        "the same from one batch: activation times gradient, nothing kept",
        criterion="gradient-batchwise",
        tau="strength",
        history=True,
    ),
    _recipe(
        "single-pass",
        "B 7",
        "most correlated pairs in one pass over the batch, every temporary in the log",
        criterion="correlation",
        tau="strength",
        history=True,
        track_memory=True,
    ),
    _recipe(
        "bounded-memory",
        "B 8",
        "most correlated pairs, in blocks that find their size within 2 MiB",
        criterion="correlation",
        tau="strength",
        memory_budget=SMALL_BUDGET,
    ),
    _recipe(
        "magnitude",
        "B 9",
        "features with the largest mean activation, without a matrix product",
        criterion="magnitude",
        tau="strength",
        history=True,
    ),
    _recipe(
        "linear-schedule",
        "A 3",
        "adaptive-tau with 0.1 % to 0.5 % of all pairs, linearly over 10,000 steps",
        criterion="coactivation",
        tau="mean-std",
        schedule="linear",
        **RISING,
    ),
    _recipe(
        "exponential-schedule",
        "A 4",
        "the same, approaching 0.5 % exponentially",
        criterion="coactivation",
        tau="mean-std",
        schedule="exponential",
        **RISING,
    ),
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}
"""By name; hyphens, see `recipe` for underscores."""


def recipe(name: str) -> Recipe:
    """The recipe of a name; hyphens and underscores are the same.

    Raises:
        ConfigError: there is no recipe of that name.
    """
    canonical = name.replace("_", "-")
    if canonical not in RECIPES:
        raise ConfigError(
            f"--recipe {name} was given, but there is no such recipe"
            f"{nearest(canonical, list(RECIPES))}; see topk-ortho recipes."
        )
    return RECIPES[canonical]


def listing() -> str:
    """Returns a line for every recipe: name, run of the source experiment, what it is."""
    rows = [(r.name, r.run, r.summary) for r in RECIPES.values()]
    return "\n".join(aligned([("recipe", "run", "what it is"), *rows], sides="<", rule=False))
