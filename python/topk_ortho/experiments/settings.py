"""Settings with ground truth, and the arms that are compared on them (method 6)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from topk_ortho.config import (
    ConfigError,
    Criterion,
    PlantConfig,
    SAEConfig,
    SyntheticConfig,
    TrainConfig,
)

SETTINGS = ("forest-240", "forest-256", "planted-6", "planted-12")
RANDOM_COEFFICIENT = 8.0


def setting(name: str, *, model: str = "", text: tuple[Path, ...] = (), hook: str) -> TrainConfig:
    """The default arm on a setting.

    Raises:
        ConfigError: no such setting, or a planted one without a model.
    """
    if name == "forest-240":
        return TrainConfig()
    if name == "forest-256":
        return TrainConfig(
            steps=3000,
            synthetic=SyntheticConfig(preset="forest-256"),
            sae=SAEConfig(k=4.83),
        )
    if name in ("planted-6", "planted-12"):
        return TrainConfig(
            activations="language-model",
            model=model,
            text=text,
            hook=hook,
            plant=PlantConfig(enabled=True),
            sae=SAEConfig(d_sae=512, k=float(name.removeprefix("planted-"))),
        )
    raise ConfigError(
        f"the setting {name} was given, but one of {', '.join(SETTINGS)} was expected."
    )


def arms(config: TrainConfig) -> dict[str, TrainConfig]:
    """Every arm of a setting by name; they differ from the default arm in what the name says."""
    plain = config.without_constraint()
    nested = replace(config.sae, kind="matryoshka")

    def with_pairs(criterion: Criterion, coefficient: float | None = None) -> TrainConfig:
        return replace(
            config,
            pairs=replace(config.pairs, criterion=criterion),
            penalty=replace(config.penalty, coefficient=coefficient),
        )

    return {
        "none": plain,
        "coactivation": config,
        "coactive-cosine": with_pairs("coactive-cosine"),
        "random": with_pairs("random", RANDOM_COEFFICIENT),
        "matryoshka": replace(plain, sae=nested),
        "matryoshka+coactivation": replace(config, sae=nested),
    }
