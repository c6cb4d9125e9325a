"""The arms of a comparison: each differs from the default arm in what its name says (method 5)."""

from __future__ import annotations

from dataclasses import replace

from topk_ortho.config import PairsConfig, TrainConfig
from topk_ortho.studies.recipes import RECIPES

ALWAYS_ON = ("none", "rate-matched-random", "ortsae", "matryoshka")
"""Baselines that every comparison carries."""
VARIED = "default"
"""What an ablation varies; its criterion is that of the configuration."""
ORTSAE_EVERY = 5


def arms(config: TrainConfig) -> dict[str, TrainConfig]:
    """Returns every arm by name.

    Args:
        config: the default arm.
    """
    config = replace(config, with_baseline=False)
    plain = config.without_constraint()
    nested = replace(config.sae, kind="matryoshka")
    ortsae = _ortsae(config)
    every = replace(ortsae.penalty, every_n=ORTSAE_EVERY)
    child_only = replace(ortsae.penalty, gradient="child-only")
    return {
        "none": plain,
        VARIED: config,
        "coactivation": _criterion(config, "coactivation"),
        "coactive-cosine": _criterion(config, "coactive-cosine"),
        "random": _criterion(config, "random"),
        "rate-matched-random": _criterion(config, "rate-matched-random"),
        "ortsae": ortsae,
        f"ortsae-every-{ORTSAE_EVERY}": replace(ortsae, penalty=every),
        "ortsae-child-only": replace(ortsae, penalty=child_only),
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


def _ortsae(config: TrainConfig) -> TrainConfig:
    """OrtSAE by its definition, on every step: it shares the ramp and nothing else of a penalty."""
    return replace(
        config,
        pairs=PairsConfig(criterion="ortsae", memory_budget=config.pairs.memory_budget),
        penalty=replace(
            config.penalty,
            coefficient=None,
            units="variance",
            normalize_by="d-sae",
            tau="fixed",
            threshold=0.0,
            sign="positive",
            gradient="symmetric",
            every_n=1,
            refresh_every=1,
        ),
    )
