"""Contexts by block and split: of a text that is tokenised as a whole, or as it is needed.

Of a whole text, the last contexts are held out; of a stream the first, as many as evaluation needs.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from topk_ortho.activations.leaving_out import LeaveOut
from topk_ortho.activations.source import Split
from topk_ortho.activations.stream import TokenStream
from topk_ortho.activations.text import cut
from topk_ortho.config import ConfigError

CONTEXTS_PER_BLOCK = 32
LEAST_HELD_OUT = 128
"""Contexts of a stream that are held out at least; the effect on the model is measured on them."""


class TooShort(Exception):
    """A stream that has too little text to be read as one."""


class Contexts(NamedTuple):
    """Contexts, and which of their positions are rows of activations.

    Attributes:
        tokens: `[n, context]` int64.
        kept: `[n, context]` bool.
        spoken: `[n, context]` bool, said by the roles that are trained on; None where all are.
    """

    tokens: Tensor
    kept: Tensor
    spoken: Tensor | None = None


class ContextBlocks(Protocol):
    """Contexts by block."""

    def n_blocks(self, split: Split) -> int | None:
        """The number of blocks; None where they begin again at the end of the text."""

    def block(self, index: int, split: Split) -> Contexts:
        """The contexts of one block."""

    def read(self, split: Split, *, rows: int | None = None) -> Contexts:
        """All contexts of a split, or just enough for so many rows."""


class WholeText:
    """Contexts that are all in memory.

    Args:
        tokens: `[n, context]` int64, at least five contexts.
        spoken: as `Contexts` has it.
        leave_out: positions that are no rows.
        per_block: contexts of a block; fewer where there are less than five times as many.
        eval_fraction: share of the blocks that is held out: at least one, at most a fifth.
    """

    def __init__(
        self,
        tokens: Tensor,
        spoken: Tensor | None = None,
        *,
        leave_out: LeaveOut,
        per_block: int = CONTEXTS_PER_BLOCK,
        eval_fraction: float = 0.05,
    ) -> None:
        self._per_block = min(per_block, len(tokens) // 5)
        blocks = len(tokens) // self._per_block
        held_out = max(1, min(round(blocks * eval_fraction), blocks // 5))
        self._n_blocks = {"train": blocks - held_out, "eval": held_out}
        whole = Contexts(tokens, leave_out.kept(tokens, spoken), spoken)
        cut_at, end = (blocks - held_out) * self._per_block, blocks * self._per_block
        self._all = {"train": _part(whole, 0, cut_at), "eval": _part(whole, cut_at, end)}

    def n_blocks(self, split: Split) -> int:
        return self._n_blocks[split]

    def block(self, index: int, split: Split) -> Contexts:
        start = index * self._per_block
        return _part(self._all[split], start, start + self._per_block)

    def read(self, split: Split, *, rows: int | None = None) -> Contexts:
        return _enough(self._all[split], rows)


class StreamedText:
    """Contexts of a stream, which begins again at its end.

    Args:
        stream: its blocks have `per_block * (context - 1)` tokens.
        context: tokens per context, BOS included.
        bos: the first token of each.
        leave_out: positions that are no rows.
        held_out: rows that are held out at least.
        most_tokens: of training, after which the stream begins again; None for its end.

    Raises:
        TooShort: there is nothing left to train on.
    """

    def __init__(
        self,
        stream: TokenStream,
        *,
        context: int,
        bos: int,
        leave_out: LeaveOut,
        held_out: int,
        most_tokens: int | None = None,
    ) -> None:
        self._stream, self._context, self._bos = stream, context, bos
        self._leave_out = leave_out
        self._most = None if most_tokens is None else math.ceil(most_tokens / stream.size)
        self._held_out: list[Contexts] = []
        rows = contexts = 0
        while rows < held_out or contexts < LEAST_HELD_OUT:
            found = self._contexts(len(self._held_out))
            if found is None:
                raise TooShort
            self._held_out.append(found)
            rows, contexts = rows + int(found.kept.sum()), contexts + len(found.kept)
            if rows == 0 and contexts >= LEAST_HELD_OUT:
                raise nothing_left(contexts)
        if self._contexts(len(self._held_out)) is None:
            raise TooShort

    def n_blocks(self, split: Split) -> int | None:
        return len(self._held_out) if split == "eval" else None

    def block(self, index: int, split: Split) -> Contexts:
        if split == "eval":
            return self._held_out[index]
        first = len(self._held_out)
        found = self._contexts(first + self._within(index))
        if found is None:  # the end was met just now
            found = self._contexts(first + self._within(index))
        assert found is not None
        return found

    def read(self, split: Split, *, rows: int | None = None) -> Contexts:
        if split == "eval":
            return _enough(_joined(self._held_out), rows)
        if rows is None:
            raise ValueError("a stream has no last context: say how many rows are needed")
        parts: list[Contexts] = []
        while not parts or sum(int(part.kept.sum()) for part in parts) < rows:
            if len(parts) == self._length():
                break
            parts.append(self.block(len(parts), "train"))
        return _enough(_joined(parts), rows)

    def over(self, index: int) -> bool:
        """Returns whether a training block is one that was there before: the text began again."""
        length = self._length()
        if length is None and self._contexts(len(self._held_out) + index) is None:
            length = self._length()
        return length is not None and index >= length

    def state(self, index: int) -> dict[str, Any]:
        """Returns the position of a training block, as JSON."""
        return self._stream.state(len(self._held_out) + self._within(index))

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a position that an earlier process reached.

        Raises:
            ValueError: it is none.
        """
        self._stream.load_state(state)

    def _length(self) -> int | None:
        """Training blocks until the stream begins again, as far as that is known."""
        end = self._stream.length
        known = [n for n in (self._most, None if end is None else end - len(self._held_out))
                 if n is not None]  # fmt: skip
        return min(known, default=None)

    def _within(self, index: int) -> int:
        length = self._length()
        return index if length is None else index % length

    def _contexts(self, index: int) -> Contexts | None:
        found = self._stream.block(index)
        if found is None:
            return None
        tokens, spoken = cut(found, self._context, bos=self._bos)
        return Contexts(tokens, self._leave_out.kept(tokens, spoken), spoken)


def nothing_left(contexts: int) -> ConfigError:
    """Returns what to say where all positions are left out."""
    return ConfigError(
        f"of {contexts} contexts no token is left to train on; leave out less: see --leave-out, "
        "--skip-positions and --chat-roles."
    )


def _part(whole: Contexts, start: int, stop: int) -> Contexts:
    spoken = None if whole.spoken is None else whole.spoken[start:stop]
    return Contexts(whole.tokens[start:stop], whole.kept[start:stop], spoken)


def _joined(parts: list[Contexts]) -> Contexts:
    spoken = [part.spoken for part in parts if part.spoken is not None]
    return Contexts(
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.kept for part in parts]),
        torch.cat(spoken) if spoken else None,
    )


def _enough(whole: Contexts, rows: int | None) -> Contexts:
    """Returns the first contexts with so many rows, or all."""
    if rows is None:
        return whole
    so_far = whole.kept.sum(1).cumsum(0)
    return _part(whole, 0, int((so_far < rows).sum()) + 1)
