"""The interface of a language model's source: blocks, the model and its contexts."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from topk_ortho.activations.models import LanguageModel
from topk_ortho.activations.source import Source, Split


class LanguageSource(Source, Protocol):
    """A source of a language model's activations.

    Attributes:
        hook: the hook point.
    """

    hook: str

    @property
    def model(self) -> LanguageModel:
        """The language model."""

    def contexts(self, split: Split) -> Tensor:
        """The contexts of a split, `[n, context]` int64, in the order of its blocks."""
