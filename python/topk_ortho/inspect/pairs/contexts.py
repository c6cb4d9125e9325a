"""Tokens in context: where a feature of a language model's SAE fires."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from topk_ortho.activations.language_source import LanguageSource
from topk_ortho.activations.quiet import QuietSource

BEFORE, AFTER = 12, 6
"""Tokens shown on either side."""


@dataclass(frozen=True)
class Excerpt:
    """One token and what stands around it, as the tokenizer spells them: not escaped.

    Attributes:
        context: which held-out context.
        position: of the token in it; BOS is 0.
        activation: of the feature, in the units of the model.
    """

    context: int
    position: int
    activation: float
    before: str
    token: str
    after: str


class TokenRows:
    """The tokens behind the held-out rows of a language model.

    A row of a block is a position that is not left out, in the order of the contexts.

    Args:
        language: model and contexts.
        quiet: the source that leaves out loud rows, if there is one.
    """

    def __init__(self, language: LanguageSource, quiet: QuietSource | None = None):
        self._tokenizer: Any = language.model.tokenizer
        self._contexts = language.contexts("eval")  # [n, context]
        places = language.kept("eval").nonzero()
        self._places = places if quiet is None else places[quiet.kept("eval")]  # [rows, 2]

    def excerpts(self, acts: Tensor, *, n: int) -> tuple[Excerpt, ...]:
        """Returns the `n` tokens of largest positive `acts` `[rows]`, one per context."""
        fires = (acts > 0).nonzero().flatten()
        order = fires[acts[fires].argsort(descending=True, stable=True)]
        found: dict[int, Excerpt] = {}
        for row in order.tolist():
            if len(found) == n:
                break
            context, position = self._places[row].tolist()
            if context not in found:
                found[context] = self._excerpt(context, position, float(acts[row]))
        return tuple(found.values())

    def _excerpt(self, context: int, position: int, activation: float) -> Excerpt:
        ids = self._contexts[context].tolist()
        start = max(1, position - BEFORE)
        stop = min(len(ids), position + 1 + AFTER)
        before, through, whole = (
            self._decode(ids[start:end]) for end in (position, position + 1, stop)
        )
        # A token alone may decode differently than within its text (spaces, split bytes).
        if not through.startswith(before):
            through = before + self._decode(ids[position : position + 1])
            whole = through + self._decode(ids[position + 1 : stop])
        if not whole.startswith(through):
            whole = through + self._decode(ids[position + 1 : stop])
        return Excerpt(
            context=context,
            position=position,
            activation=activation,
            before=before,
            token=through[len(before) :],
            after=whole[len(through) :],
        )

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
