"""The interface of a language model's source: blocks, the model and its contexts."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from topk_ortho.activations.language_model import LanguageModel
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

    def contexts(self, split: Split, *, rows: int | None = None) -> Tensor:
        """The contexts of a split, `[n, context]` int64, in the order of its blocks: all, or just
        enough for so many rows."""

    def kept(self, split: Split, *, rows: int | None = None) -> Tensor:
        """`[n, context]` bool, which positions of `contexts` are rows of the blocks."""
