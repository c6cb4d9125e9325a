"""The configuration of a run: its settings, their rules, and their TOML. Imports no torch."""

from topk_ortho.config.data import PlantConfig, SyntheticConfig
from topk_ortho.config.errors import ConfigError
from topk_ortho.config.history import HistoryConfig
from topk_ortho.config.pairs import (
    DEFAULT_CRITERION,
    DEFAULT_PER_FEATURE,
    CriterionName,
    PairsConfig,
)
from topk_ortho.config.penalty import PenaltyConfig, Tau
from topk_ortho.config.sae import SAEConfig
from topk_ortho.config.train import DEFAULT_STEPS, TrainConfig

__all__ = [
    "DEFAULT_CRITERION",
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
