"""The interface of a language model's source: blocks, the model and its contexts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from topk_ortho.activations.models import LanguageModel
from topk_ortho.activations.source import Source, Split


def in_words(loaded: Mapping[str, str]) -> str:
    """Returns one line on a model: what runs it and where, and the reason if there is one."""
    why = f" ({loaded['why']})" if "why" in loaded else ""
    return "language model: {backend}, {dtype} on {device}".format_map(loaded) + why


class LanguageSource(Source, Protocol):
    """A source of a language model's activations.

    Attributes:
        hook: the hook point.
        hook_out: hook point of the targets, empty where an SAE reconstructs what it reads.
    """

    hook: str
    hook_out: str

    @property
    def loaded(self) -> Mapping[str, str]:
        """Backend, type and device of the model that computed the activations, as in a manifest."""

    @property
    def model(self) -> LanguageModel:
        """The language model."""

    def contexts(self, split: Split, *, rows: int | None = None) -> Tensor:
        """The contexts of a split, `[n, context]` int64, in the order of its blocks: all, or just
        enough for so many rows."""

    def kept(self, split: Split, *, rows: int | None = None) -> Tensor:
        """`[n, context]` bool, which positions of `contexts` are rows of the blocks."""
