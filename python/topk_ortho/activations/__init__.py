"""Sources of activations: synthetic data, a language model, or files, and the shuffling buffer.

Importing the package loads no torch, so that a command line can name its sources.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topk_ortho.activations.buffer import ShuffleBuffer as ShuffleBuffer
    from topk_ortho.activations.preparation import Activations as Activations
    from topk_ortho.activations.preparation import prepare as prepare
    from topk_ortho.activations.source import Block as Block
    from topk_ortho.activations.source import GroundTruth as GroundTruth
    from topk_ortho.activations.source import Source as Source

_HOMES = {
    "Activations": "preparation",
    "Block": "source",
    "GroundTruth": "source",
    "ShuffleBuffer": "buffer",
    "Source": "source",
    "prepare": "preparation",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
