"""What a run is: its settings, their rules, and their TOML. Imports no torch."""

from topk_ortho.config.errors import ConfigError
from topk_ortho.config.schema import (
    COEFFICIENTS,
    DEFAULT_PER_FEATURE,
    OTHER_COEFFICIENT,
    Criterion,
    HistoryConfig,
    PairsConfig,
    PenaltyConfig,
    PlantConfig,
    SAEConfig,
    SyntheticConfig,
    Tau,
    TrainConfig,
)

__all__ = [
    "COEFFICIENTS",
    "DEFAULT_PER_FEATURE",
    "OTHER_COEFFICIENT",
    "ConfigError",
    "Criterion",
    "HistoryConfig",
    "PairsConfig",
    "PenaltyConfig",
    "PlantConfig",
    "SAEConfig",
    "SyntheticConfig",
    "Tau",
    "TrainConfig",
]
