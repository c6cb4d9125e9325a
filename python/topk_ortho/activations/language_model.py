"""Activations of a language model at one hook point, a block of contexts at a time.

A block costs one forward pass up to the hook's layer; computed blocks stay in memory up to a byte
budget. Refused: text too short for five contexts, activations that are not finite.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from topk_ortho.activations.models import LanguageModel
from topk_ortho.activations.source import Block, GroundTruth, Split
from topk_ortho.config import ConfigError

CONTEXTS_PER_BLOCK = 32
# Tokens per forward pass on CPU: at 128 per context the fastest of 512 ... 32,768.
CPU_TOKENS = 2048


class LanguageModelSource:
    """A `Source` of the activations of packed contexts, without BOS positions.

    The eval split is the last twentieth (`eval_fraction`) of the contexts: at least one block, at
    most a fifth. With fewer than five blocks of contexts, blocks are made smaller.

    Args:
        model: the language model.
        contexts: `[n, context]` int64 from `pack_contexts`.
        hook: hook point.
        contexts_per_block: contexts whose rows make a block.
        eval_fraction: share of the contexts kept for evaluation.
        cache_bytes: memory for computed blocks, so that a second epoch runs no model.
        text: what messages call the text of the contexts.

    Raises:
        ConfigError: unusable hook, fewer than five contexts, context too long for the model.
    """

    truth: GroundTruth | None = None

    def __init__(
        self,
        model: LanguageModel,
        contexts: Tensor,
        hook: str,
        *,
        contexts_per_block: int = CONTEXTS_PER_BLOCK,
        eval_fraction: float = 0.05,
        cache_bytes: int = 1 << 30,
        text: str = "the text",
    ) -> None:
        _check_contexts(model, contexts, text)
        if contexts_per_block < 1 or not 0 < eval_fraction < 1:
            raise ConfigError(
                f"contexts_per_block is {contexts_per_block} and eval_fraction {eval_fraction}; "
                "expected at least 1, and a share between 0 and 1."
            )
        self.model, self.hook = model, hook
        self.d_in = model.width(hook, contexts)
        self._per_block = min(contexts_per_block, len(contexts) // 5)
        blocks = len(contexts) // self._per_block
        held_out = max(1, min(round(blocks * eval_fraction), blocks // 5))
        self._n_blocks = {"train": blocks - held_out, "eval": held_out}
        used = contexts[: blocks * self._per_block]
        cut = (blocks - held_out) * self._per_block
        self._contexts = {"train": used[:cut], "eval": used[cut:]}
        _check_predictions(model, self._contexts["eval"])
        self._kept: dict[tuple[Split, int], Tensor] = {}
        self._room = cache_bytes

    @property
    def loaded(self) -> Mapping[str, str]:
        """Returns backend, type and device of the model."""
        return self.model.described

    def contexts(self, split: Split) -> Tensor:
        """Returns the contexts of a split, `[n, context]` int64, in the order of its blocks."""
        return self._contexts[split]

    def n_blocks(self, split: Split) -> int:
        """Returns the number of blocks in a split."""
        return self._n_blocks[split]

    def rows_of(self, index: int, split: Split) -> int:
        """Returns the number of rows of a block, without running the model."""
        start = index * self._per_block
        contexts = self._contexts[split][start : start + self._per_block]
        return int((contexts != self.model.bos).sum())

    def block(self, index: int, split: Split) -> Block:
        """Returns a block's rows: `[contexts_per_block * (context - 1) - BOS separators, d_in]`.

        Raises:
            IndexError: no such block.
            ConfigError: an activation is not finite.
        """
        if not 0 <= index < self._n_blocks[split]:
            raise IndexError(f"block {index} of {split}: there are {self._n_blocks[split]}")
        kept = self._kept.get((split, index))
        if kept is None:
            kept = self._compute(index, split)
            size = kept.numel() * kept.element_size()
            if size <= self._room:
                self._room -= size
                self._kept[split, index] = kept
        return Block(x=kept.clone(), fired=None)

    def where(self, index: int, split: Split, row: int) -> str:
        return f"row {row} of {split} block {index} of {self.hook} in {self.model.name!r}"

    def _compute(self, index: int, split: Split) -> Tensor:
        start = index * self._per_block
        parts = []
        contexts = self._contexts[split][start : start + self._per_block]
        on_cpu = self.model.device.type == "cpu"
        together = max(1, CPU_TOKENS // contexts.shape[1]) if on_cpu else len(contexts)
        for tokens in contexts.split(together):
            x = self.model.activations(tokens, self.hook).cpu()
            parts.append(x[tokens != self.model.bos])
        rows = torch.cat(parts)
        finite = rows.isfinite().all(dim=1)
        if not finite.all():
            raise ConfigError(
                f"{self.hook} of {self.model.name!r}: row {int((~finite).nonzero()[0])} of {split} "
                f"block {index} is not finite; expected finite activations, check the weights."
            )
        return rows


def _check_contexts(model: LanguageModel, contexts: Tensor, text: str) -> None:
    if contexts.ndim != 2 or len(contexts) < 5:
        raise ConfigError(
            f"{text} was given, but it gives contexts of shape {list(contexts.shape)}, and at "
            "least 5 contexts were expected; add text, or lower --context."
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
            "tokens of one document in a row, which predicting needs; raise --context, or give "
            "longer documents."
        )
