"""Tokens by block, read as they are needed; a text of any length takes the memory of a few blocks.

Block i is the same whenever it is read: every so many blocks the position is kept (a place in the
documents and a number of tokens to skip), and reading begins at the nearest one before. One thread
tokenises the documents ahead of those that are asked for, one batch at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from topk_ortho.activations.documents import Document, Documents
from topk_ortho.activations.text import DOCUMENTS_PER_CALL, Tokeniser, Tokens, joined

CHARACTERS_PER_CALL = 1 << 18
"""Characters that are tokenised at once, from which on a batch takes no more documents."""
KEPT_EVERY = 64
"""Blocks between two positions that are kept."""


class Position(NamedTuple):
    """The beginning of a block.

    Attributes:
        place: of the documents, where a batch of them begins.
        skip: tokens of that batch before the block.
    """

    place: Any
    skip: int


class TokenStream:
    """The tokens of documents in blocks of one size; the rest at the end is no block.

    Args:
        documents: where texts come from.
        tokenise: documents to tokens.
        size: tokens of a block.

    Attributes:
        length: number of blocks, None until the end was reached.
    """

    def __init__(self, documents: Documents, tokenise: Tokeniser, *, size: int) -> None:
        self._documents, self._tokenise, self.size = documents, tokenise, size
        self.length: int | None = None
        self._kept = {0: Position(None, 0)}
        self._reading: tuple[int, _Reading] | None = None  # and the block that comes next
        self._latest: tuple[int, Tokens] | None = None  # asked for more than once in a row
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenise")

    def block(self, index: int) -> Tokens | None:
        """Returns the tokens of a block, None beyond the end."""
        if self._latest is not None and self._latest[0] == index:
            return self._latest[1]
        if self.length is not None and index >= self.length:
            return None
        near = self._nearest(index)
        if self._reading is None or not near <= self._reading[0] <= index:
            self._begin(near)
        while True:
            assert self._reading is not None
            number, reading = self._reading
            if number % KEPT_EVERY == 0:
                self._kept[number] = reading.position
            tokens = reading.take(self.size)
            if tokens is None:
                self.length = number
                self._reading = None
                return None
            self._reading = number + 1, reading
            if number == index:
                self._latest = index, tokens
                return tokens

    def state(self, index: int) -> dict[str, Any]:
        """Returns the position from which block `index` is found, as JSON."""
        near = self._nearest(index)
        place, skip = self._kept[near]
        return {"block": near, "place": place, "skip": skip, "length": self.length}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a position that an earlier process reached.

        Raises:
            ValueError: it is none.
        """
        whole = [state[name] for name in ("block", "skip")]
        if any(type(number) is not int or number < 0 for number in whole):
            raise ValueError(f"{state} is not a position in a text")
        self._kept[state["block"]] = Position(state["place"], state["skip"])
        self.length = state["length"]

    def _nearest(self, index: int) -> int:
        return max(number for number in self._kept if number <= index)

    def _begin(self, number: int) -> None:
        position = self._kept[number]
        self._reading = number, _Reading(self._batches(position.place), position, self._thread)

    def _batches(self, place: Any) -> Iterator[tuple[Any, Tokens]]:
        """Yields where each batch begins, and its tokens."""
        some: list[Document] = []
        start = place
        for documents, after in self._documents.read(place):
            some += documents
            long = sum(len(d.text) for d in some) >= CHARACTERS_PER_CALL
            if long or len(some) >= DOCUMENTS_PER_CALL:
                yield start, self._tokenise(some)
                some, start = [], after
        yield start, self._tokenise(some)


class _Reading:
    """A pass over batches from a position on, one of them ahead."""

    def __init__(
        self,
        batches: Iterator[tuple[Any, Tokens]],
        position: Position,
        thread: ThreadPoolExecutor,
    ) -> None:
        self._batches, self._thread = batches, thread
        self._place, self._skip = position
        self._held: deque[tuple[Any, Tokens]] = deque()
        self._next: Future[tuple[Any, Tokens] | None] | None = self._ask()

    @property
    def position(self) -> Position:
        """The position of the next token."""
        if not self._held:
            self._fetch()
        return Position(self._held[0][0] if self._held else self._place, self._skip)

    def take(self, size: int) -> Tokens | None:
        """Returns the next tokens, None where there are fewer."""
        while sum(len(tokens.ids) for _, tokens in self._held) - self._skip < size:
            if not self._fetch():
                return None
        parts: list[Tokens] = []
        while size:
            _, tokens = self._held[0]
            part = tokens.part(self._skip, self._skip + size)
            parts.append(part)
            size -= len(part.ids)
            self._skip += len(part.ids)
            if self._skip == len(tokens.ids):
                self._place = self._held.popleft()[0]
                self._skip = 0
        return joined(parts)

    def _fetch(self) -> bool:
        """Returns whether there was a batch."""
        found = None if self._next is None else self._next.result()
        self._next = None if found is None else self._ask()
        if found is not None:
            self._held.append(found)
        return found is not None

    def _ask(self) -> Future[tuple[Any, Tokens] | None]:
        return self._thread.submit(next, self._batches, None)
