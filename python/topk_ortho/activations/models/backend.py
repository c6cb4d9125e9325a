"""The interface of a backend: a model that is run, its hook points, and what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from topk_ortho.activations.models.remembering import Begun

Act = Callable[[Tensor], Tensor | None]
"""From what is at a hook point to what shall be there, of the same shape and type, None to leave
it."""


class Backend(Protocol):
    """A causal language model as a backend runs it.

    Attributes:
        name: as `--backend` has it.
        hooks: names of all hook points.
        tokenizer: its Hugging Face tokenizer, None where there is none.
        max_context: longest context in tokens.
        d_vocab: number of token ids.
        d_model: width of the residual stream.
        d_mlp: width inside an MLP.
        weights: how many it has.
        device: where its tokens go.
        dtype: type of its weights.
    """

    name: str
    hooks: tuple[str, ...]
    tokenizer: Any
    max_context: int
    d_vocab: int
    d_model: int
    d_mlp: int
    weights: int
    device: torch.device
    dtype: torch.dtype

    def capture(self, tokens: Tensor, hooks: Sequence[str]) -> dict[str, Tensor]:
        """Returns what is at each hook point that fires, from one pass up to the last of them.

        Args:
            tokens: `[batch, position]` int64.
            hooks: of `self.hooks`, each once.

        Raises:
            LookupError: the backend has switched such a hook point off; the first argument names
                it.
        """

    def logits(self, tokens: Tensor, acts: Mapping[str, Act], begun: Begun | None = None) -> Tensor:
        """Returns logits `[batch, position, d_vocab]` of one pass, with what each hook point's act
        puts in the place of what is there.

        Args:
            tokens: `[batch, position]` int64.
            acts: by hook point of `self.hooks`, called in the order of the pass.
            begun: what earlier passes over these tokens left, from which this one may begin and to
                which it may add.

        Raises:
            LookupError: as of `capture`.
        """
