"""Settings with ground truth (docs/method.md, 6), on which the repository's pages compare arms."""

from __future__ import annotations

from pathlib import Path

from topk_ortho.config import (
    ConfigError,
    PlantConfig,
    SAEConfig,
    SyntheticConfig,
    TrainConfig,
)

SETTINGS = ("forest-240", "forest-256", "planted-6", "planted-12")


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
