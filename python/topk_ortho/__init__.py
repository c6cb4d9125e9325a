"""Sparse autoencoders trained with an instantaneous top-k orthogonality constraint.

Importing the package loads nothing heavy: every name below is fetched when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topk_ortho.config import ConfigError as ConfigError
    from topk_ortho.config import HistoryConfig as HistoryConfig
    from topk_ortho.config import PairsConfig as PairsConfig
    from topk_ortho.config import PenaltyConfig as PenaltyConfig
    from topk_ortho.config import SAEConfig as SAEConfig
    from topk_ortho.config import TrainConfig as TrainConfig
    from topk_ortho.constraint.criteria import Criterion as Criterion
    from topk_ortho.constraint.criteria import register_criterion as register_criterion
    from topk_ortho.constraint.history import PairHistory as PairHistory
    from topk_ortho.constraint.orthogonality import Orthogonality as Orthogonality
    from topk_ortho.constraint.penalty import OrthogonalityPenalty as OrthogonalityPenalty
    from topk_ortho.constraint.selection import PairSelection as PairSelection
    from topk_ortho.constraint.selection import PairSelector as PairSelector
    from topk_ortho.constraint.settings import OrthogonalityConfig as OrthogonalityConfig
    from topk_ortho.formats.load import load_sae as load_sae
    from topk_ortho.metrics.absorption import AbsorptionMeter as AbsorptionMeter
    from topk_ortho.training import resume as resume
    from topk_ortho.training import train as train
    from topk_ortho.training import train_sae as train_sae

__version__ = "0.1.0"

_HOMES = {
    "AbsorptionMeter": "topk_ortho.metrics.absorption",
    "ConfigError": "topk_ortho.config",
    "Criterion": "topk_ortho.constraint.criteria",
    "HistoryConfig": "topk_ortho.config",
    "Orthogonality": "topk_ortho.constraint.orthogonality",
    "OrthogonalityConfig": "topk_ortho.constraint.settings",
    "OrthogonalityPenalty": "topk_ortho.constraint.penalty",
    "PairHistory": "topk_ortho.constraint.history",
    "PairSelection": "topk_ortho.constraint.selection",
    "PairSelector": "topk_ortho.constraint.selection",
    "PairsConfig": "topk_ortho.config",
    "PenaltyConfig": "topk_ortho.config",
    "SAEConfig": "topk_ortho.config",
    "TrainConfig": "topk_ortho.config",
    "load_sae": "topk_ortho.formats.load",
    "register_criterion": "topk_ortho.constraint.criteria",
    "resume": "topk_ortho.training",
    "train": "topk_ortho.training",
    "train_sae": "topk_ortho.training",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    near = ""
    if not name.startswith("_"):
        from topk_ortho.config.errors import nearest

        near = nearest(name, __all__)
    raise AttributeError(f"module 'topk_ortho' has no attribute {name!r}{near}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
