"""The arms of a comparison: each differs from the default arm in what its name says (method 5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from topk_ortho.config import PairsConfig, PenaltyConfig, TrainConfig
from topk_ortho.studies.recipes import RECIPES

ALWAYS_ON = ("none", "rate-matched-random", "ortsae", "matryoshka")
"""Baselines that every comparison carries."""
VARIED = "default"
"""What an ablation varies; its criterion is that of the configuration."""
EVERY = 5
"""Steps between two penalties of OrtSAE and of C²R, as published."""


def arms(config: TrainConfig) -> dict[str, TrainConfig]:
    """Returns every arm by name.

    Args:
        config: the default arm.
    """
    config = replace(config, with_baseline=False)
    plain = config.without_constraint()
    nested = replace(config.sae, kind="matryoshka")
    ortsae, c2r = _published(config, "ortsae"), _published(config, "c2r")
    return {
        "none": plain,
        VARIED: config,
        "coactivation": _criterion(config, "coactivation"),
        "coactive-cosine": _criterion(config, "coactive-cosine"),
        "random": _criterion(config, "random"),
        "rate-matched-random": _criterion(config, "rate-matched-random"),
        "ortsae": ortsae,
        f"ortsae-every-{EVERY}": _penalty(ortsae, every_n=EVERY),
        "ortsae-child-only": _penalty(ortsae, gradient="child-only"),
        "c2r": _penalty(c2r, every_n=EVERY),
        "c2r-every-step": c2r,
        "c2r-detached": _penalty(c2r, every_n=EVERY, pair_weight="activity-detached"),
        "c2r-child-only": _penalty(
            c2r, every_n=EVERY, pair_weight="activity-detached", gradient="child-only"
        ),
        "matryoshka": replace(plain, sae=nested),
        "matryoshka+constraint": replace(config, sae=nested),
    }


def all_arms(config: TrainConfig) -> dict[str, TrainConfig]:
    """Returns every arm by name, and every run of the source experiment by its recipe's name."""
    recipes = {name: recipe.config(config) for name, recipe in RECIPES.items()}
    return arms(config) | {n: replace(c, with_baseline=False) for n, c in recipes.items()}


def _criterion(config: TrainConfig, criterion: str) -> TrainConfig:
    """Returns the arm with another criterion, and the coefficient that belongs to it.

    It is in units of the variance, over features: a penalty in other units keeps its coefficient.
    """
    plain = (config.penalty.units, config.penalty.normalize_by) == ("variance", "d-sae")
    coefficient = None if plain else config.coefficient()
    return replace(
        config,
        pairs=replace(config.pairs, criterion=criterion),
        penalty=replace(config.penalty, coefficient=coefficient),
    )


def _published(config: TrainConfig, criterion: str) -> TrainConfig:
    """OrtSAE or C²R as defined, on every step: of a penalty's settings, it takes only the ramp."""
    return replace(
        config,
        pairs=PairsConfig(criterion=criterion, memory_budget=config.pairs.memory_budget),
        penalty=PenaltyConfig(threshold=0.0, gradient="symmetric", ramp=config.penalty.ramp),
    )


def _penalty(config: TrainConfig, **settings: Any) -> TrainConfig:
    """Returns the arm with other settings of its penalty."""
    return replace(config, penalty=replace(config.penalty, **settings))
