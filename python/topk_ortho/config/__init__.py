"""What a run is: its settings, their rules, and their TOML. Imports no torch."""

from topk_ortho.config.data import PlantConfig, SyntheticConfig
from topk_ortho.config.error import ConfigError
from topk_ortho.config.history import HistoryConfig
from topk_ortho.config.pairs import DEFAULT_PER_FEATURE, Criterion, PairsConfig
from topk_ortho.config.penalty import COEFFICIENTS, OTHER_COEFFICIENT, PenaltyConfig, Tau
from topk_ortho.config.sae import SAEConfig
from topk_ortho.config.train import TrainConfig

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
