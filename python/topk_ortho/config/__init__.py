"""What a run is: its settings, their rules, and their TOML. Imports no torch."""

from topk_ortho.config.errors import ConfigError
from topk_ortho.config.schema import (
    DEFAULT_PER_FEATURE,
    DEFAULT_STEPS,
    CriterionName,
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
    "DEFAULT_PER_FEATURE",
    "DEFAULT_STEPS",
    "ConfigError",
    "CriterionName",
    "HistoryConfig",
    "PairsConfig",
    "PenaltyConfig",
    "PlantConfig",
    "SAEConfig",
    "SyntheticConfig",
    "Tau",
    "TrainConfig",
]
