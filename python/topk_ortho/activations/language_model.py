"""Activations of a language model at one hook point, a block of contexts at a time.

A block costs one forward pass up to the hook's layer; computed blocks stay in memory up to a byte
budget. Refused: text too short for five contexts, activations that are not finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from topk_ortho.activations.contexts import CONTEXTS_PER_BLOCK, ContextBlocks, WholeText
from topk_ortho.activations.leaving_out import LeaveOut, counted
from topk_ortho.activations.models import LanguageModel
from topk_ortho.activations.passes import Passes
from topk_ortho.activations.source import Block, GroundTruth, Split
from topk_ortho.config import ConfigError

# Tokens per forward pass on CPU: at 128 per context the fastest of 512 ... 32,768.
CPU_TOKENS = 2048


class LanguageModelSource:
    """A `Source` of the activations of packed contexts, without BOS positions.

    Of contexts in memory, the eval split is the last twentieth (`eval_fraction`): at least one
    block, at most a fifth. With fewer than five blocks of contexts, blocks are made smaller.

    Args:
        model: the language model.
        contexts: `[n, context]` int64 from `pack_contexts`, or contexts by block.
        hook: hook point.
        hook_out: hook point of the targets that come from the same pass; none unless given.
        contexts_per_block: contexts whose rows make a block; of contexts in memory.
        eval_fraction: share of the contexts kept for evaluation; of contexts in memory.
        cache_bytes: memory for computed blocks, so that a second epoch runs no model.
        leave_out: positions that are no rows; BOS alone unless given.
        text: what messages call the text of the contexts.
        passes: those that it shares with sources of other hook points; its own unless given.

    Raises:
        ConfigError: unusable hook, fewer than five contexts, context too long for the model.
    """

    truth: GroundTruth | None = None

    def __init__(
        self,
        model: LanguageModel,
        contexts: Tensor | ContextBlocks,
        hook: str,
        *,
        hook_out: str = "",
        contexts_per_block: int = CONTEXTS_PER_BLOCK,
        eval_fraction: float = 0.05,
        cache_bytes: int = 1 << 30,
        leave_out: LeaveOut | None = None,
        text: str = "the text",
        passes: Passes | None = None,
    ) -> None:
        self._passes = passes or Passes([hook], target=hook_out)
        self.leave_out = leave_out or LeaveOut(model.bos)
        if isinstance(contexts, Tensor):
            check_contexts(model, contexts, text)
            contexts = self._in_memory(contexts, contexts_per_block, eval_fraction)
        self.contexts_by_block: ContextBlocks = contexts
        first = contexts.block(0, "eval").tokens
        check_contexts(model, first, text, least=1)
        self.model, self.hook, self.hook_out = model, hook, hook_out
        self.d_in = model.width(hook, first)
        self.d_out = model.width(hook_out, first) if hook_out else None
        if hook_out:
            model.check_order(hook, hook_out, first)
        _check_predictions(model, contexts.read("eval").tokens)
        self._kept: dict[tuple[Split, int], Block] = {}
        self.cache_bytes = self._room = cache_bytes
        self._short = False  # whether a block found no room

    def _in_memory(self, contexts: Tensor, per_block: int, eval_fraction: float) -> WholeText:
        if per_block < 1 or not 0 < eval_fraction < 1:
            raise ConfigError(
                f"contexts_per_block is {per_block} and eval_fraction {eval_fraction}; "
                "expected at least 1, and a share between 0 and 1."
            )
        return WholeText(
            contexts,
            leave_out=self.leave_out,
            per_block=per_block,
            eval_fraction=eval_fraction,
        )

    @property
    def loaded(self) -> Mapping[str, str]:
        """Returns backend, type and device of the model."""
        return self.model.described

    def contexts(self, split: Split, *, rows: int | None = None) -> Tensor:
        """Returns the contexts of a split, `[n, context]` int64, in the order of its blocks: all,
        or just enough for so many rows."""
        return self.contexts_by_block.read(split, rows=rows).tokens

    def kept(self, split: Split, *, rows: int | None = None) -> Tensor:
        """Returns `[n, context]` bool, which positions of `contexts` are rows."""
        return self.contexts_by_block.read(split, rows=rows).kept

    def left_out(self, blocks: Iterable[int]) -> dict[str, int]:
        """Returns how many positions of some training blocks are no rows, by reason."""
        found = [self.contexts_by_block.block(index, "train") for index in blocks]
        return counted([self.leave_out.reasons(c.tokens, c.spoken) for c in found])

    def n_blocks(self, split: Split) -> int | None:
        """Returns the number of blocks in a split; None for those of a stream."""
        return self.contexts_by_block.n_blocks(split)

    def rows_of(self, index: int, split: Split) -> int:
        """Returns the number of rows of a block, without running the model."""
        return int(self.contexts_by_block.block(index, split).kept.sum())

    def tokens_of(self, index: int, split: Split) -> Tensor:
        """Returns token id and position in the context of each row of a block, `[rows, 2]` int64,
        without running the model."""
        contexts = self.contexts_by_block.block(index, split)
        row, position = contexts.kept.nonzero(as_tuple=True)
        return torch.stack([contexts.tokens[row, position], position], dim=1)

    def block(self, index: int, split: Split) -> Block:
        """Returns a block's rows: `[contexts_per_block * (context - 1) - left out, d_in]`.

        Raises:
            IndexError: no such block.
            ConfigError: an activation is not finite.
        """
        limit = self.n_blocks(split)
        if index < 0 or (limit is not None and index >= limit):
            raise IndexError(f"block {index} of {split}: there are {limit}")
        kept = self._kept.get((split, index))
        if kept is None:
            kept = self._passes.block(self.rows_at, index, split, self.hook)
            size = sum(part.nbytes for part in kept if part is not None)
            if size <= self._room:
                self._room -= size
                self._kept[split, index] = kept
            else:
                self._short = True
        return Block(*(None if part is None else part.clone() for part in kept))  # type: ignore[arg-type]

    def make_room(self) -> None:
        """Let go of the blocks that stay in memory if others found no room there: after the last
        step, several SAEs ask for the same ones."""
        if self._short:
            self._kept.clear()
            self._room, self._short = self.cache_bytes, False

    def where(self, index: int, split: Split, row: int) -> str:
        return f"row {row} of {split} block {index} of {self.hook} in {self.model.name!r}"

    def rows_at(self, index: int, split: Split, hooks: Sequence[str]) -> dict[str, Tensor]:
        """Returns the rows of a block at several hook points, from one pass of the model.

        Raises:
            ConfigError: an activation is not finite.
        """
        contexts = self.contexts_by_block.block(index, split)
        on_cpu = self.model.device.type == "cpu"
        context = contexts.tokens.shape[1]
        together = max(1, CPU_TOKENS // context) if on_cpu else len(contexts.tokens)
        parts: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
        for tokens, kept in zip(
            contexts.tokens.split(together), contexts.kept.split(together), strict=True
        ):
            for hook, x in self.model.activations_at(tokens, hooks).items():
                parts[hook].append(x.cpu()[kept])
        rows = {hook: torch.cat(found) for hook, found in parts.items()}
        for hook, x in rows.items():
            self._check_finite(x, hook, index, split)
        return rows

    def _check_finite(self, rows: Tensor, hook: str, index: int, split: Split) -> None:
        finite = rows.isfinite().all(dim=1)
        if not finite.all():
            raise ConfigError(
                f"{hook} of {self.model.name!r}: row {int((~finite).nonzero()[0])} of {split} "
                f"block {index} is not finite; expected finite activations, check the weights."
            )


def check_contexts(model: LanguageModel, contexts: Tensor, text: str, *, least: int = 5) -> None:
    """Refuse contexts that are too few, too long for a model, or of another tokenizer.

    Raises:
        ConfigError: they are.
    """
    if contexts.ndim != 2 or len(contexts) < least:
        raise ConfigError(
            f"{text} was given, but it gives contexts of shape {list(contexts.shape)}, and at "
            f"least {least} contexts were expected; add text, or lower --context."
        )
    if contexts.shape[1] > model.max_context:
        raise ConfigError(
            f"--context {contexts.shape[1]} was given, but {model.name!r} reads at most "
            f"{model.max_context} tokens; lower it to that or less."
        )
    if int(contexts.max()) >= model.d_vocab:
        raise ConfigError(
            f"token id {int(contexts.max())} is outside the {model.d_vocab} of {model.name!r}: "
            "use the model's own tokenizer."
        )


def _check_predictions(model: LanguageModel, held_out: Tensor) -> None:
    """Refuse before training what could not be evaluated afterwards."""
    text = held_out != model.bos
    if not (text[:, :-1] & text[:, 1:]).any():
        raise ConfigError(
            f"contexts of {held_out.shape[1]} tokens were given, but the held-out ones have no two "
            "tokens of one document in a row, which predicting needs; raise --context, or "
            "give longer documents."
        )
