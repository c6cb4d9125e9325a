"""One of several parts of a source, so that several processes write one cache."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from topk_ortho.activations.source import Block, GroundTruth, Source, Split
from topk_ortho.config import ConfigError


@dataclass(frozen=True)
class Part:
    """Which of how many, from 1 on; `Part(1, 1)` is the whole."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """Returns the part of a text such as `2/8`.

        Raises:
            ConfigError: it is no such text.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise ConfigError(
                f"--part {text} was given, but a part such as 2/8 was expected, the second of "
                "eight; give one from 1/N to N/N."
            )
        return cls(int(number), int(of))

    @property
    def stem(self) -> str:
        """Returns the beginning of the names of its files."""
        return "" if self.of == 1 else f"part-{self.number:03d}-of-{self.of:03d}-"


class PartOfSource:
    """The blocks of a part, all of them in the training split; parts in order are the source.

    Args:
        source: knows how many blocks it has.
        part: which of its blocks.
    """

    def __init__(self, source: Source, part: Part) -> None:
        self.source, self.d_in = source, source.d_in
        self.truth: GroundTruth | None = source.truth
        splits: tuple[Split, ...] = ("train", "eval")
        places = [(index, s) for s in splits for index in range(source.n_blocks(s) or 0)]
        first, last = (len(places) * n // part.of for n in (part.number - 1, part.number))
        self._places = places[first:last]
        for name in ("rows_of", "tokens_of"):
            if hasattr(source, name):
                setattr(self, name, getattr(self, f"_{name}"))

    def n_blocks(self, split: Split) -> int:
        return len(self._places) if split == "train" else 0

    def block(self, index: int, split: Split) -> Block:
        return self.source.block(*self._places[index])

    def where(self, index: int, split: Split, row: int) -> str:
        return self.source.where(*self._places[index], row)

    def _rows_of(self, index: int, split: Split) -> int:
        return self.source.rows_of(*self._places[index])  # type: ignore[attr-defined]

    def _tokens_of(self, index: int, split: Split) -> Tensor:
        return self.source.tokens_of(*self._places[index])  # type: ignore[attr-defined]
