"""A language model that begins a pass over tokens it has seen where the pass differs from before.

Putting other things in the place of one hook point's activations, again and again, changes nothing
before the block of that hook point. What goes into that block is kept and read, so that such a pass
runs the blocks from there on, and one that changes nothing runs only what is behind the last block.
Logits are those of a whole pass, bit for bit. TransformerLens' bridge runs whole passes always.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from topk_ortho.activations.models.model import LanguageModel

MOST_BYTES = 2**28
"""Of what goes into blocks; whatever does not fit is computed again."""
Begun = dict[int, Tensor]
"""By the number of a block, what goes into it, `[batch, position, d_model]`; by the number of
blocks, what comes out of the last."""


class Remembering:
    """A model's passes for logits; several SAEs share what it keeps.

    Args:
        model: whose passes.
        most_bytes: that are kept.
    """

    def __init__(self, model: LanguageModel, *, most_bytes: int = MOST_BYTES) -> None:
        self._model, self._most = model, most_bytes
        self._begun: dict[bytes, Begun] = {}

    @property
    def nbytes(self) -> int:
        """Returns the bytes that are kept."""
        return sum(x.nbytes for begun in self._begun.values() for x in begun.values())

    def run_with_hooks(
        self,
        tokens: Tensor,
        hook: str | None = None,
        replace: Callable[..., Tensor] | None = None,
        *,
        hook_in: str = "",
    ) -> Tensor:
        """Returns logits as `LanguageModel.run_with_hooks` does."""
        begun = self._of(tokens)
        return self._model.run_with_hooks(tokens, hook, replace, hook_in=hook_in, begun=begun)

    def activations(self, tokens: Tensor, hook: str) -> Tensor:
        """Returns activations as `LanguageModel.activations` does."""
        return self._model.activations(tokens, hook)

    def _of(self, tokens: Tensor) -> Begun | None:
        """What is kept of these tokens, to be added to; None where nothing more may be kept."""
        shape, content = str(list(tokens.shape)), tokens.cpu().contiguous().numpy().tobytes()
        key = hashlib.sha256(shape.encode() + content).digest()
        if key not in self._begun and self.nbytes >= self._most:
            return None
        return self._begun.setdefault(key, {})
