"""Activations of a language model at one hook point, through the bridge of transformer_lens.

Importing transformer_lens takes seconds, so it happens in `LanguageModel.load`. A block costs one
forward pass up to the hook's layer; computed blocks stay in memory up to a byte budget. Refused:
models that need remote code or pickled weights, hooks that do not exist or do not fire, text too
short for five contexts, activations that are not finite.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topk_ortho.activations.contexts import CONTEXTS_PER_BLOCK, ContextBlocks, WholeText
from topk_ortho.activations.leaving_out import LeaveOut, counted
from topk_ortho.activations.source import Block, GroundTruth, Split
from topk_ortho.activations.text import bos_token
from topk_ortho.config import ConfigError

# Tokens per forward pass on CPU: at 128 per context the fastest of 512 ... 32,768.
CPU_TOKENS = 2048
BETWEEN_TOKENS = ("hook_pattern", "hook_attn_scores")
"""Ends of the names of hook points that hold one number for two tokens."""
SCALE = "hook_scale"
"""End of the names of hook points that hold the one number a normalisation divides by."""


class LanguageModel:
    """A causal language model with named hook points.

    Attributes:
        name: the name or folder it was loaded from.
        tokenizer: its Hugging Face tokenizer.
        bos: id of the token that every context starts with and that separates documents.
        max_context: longest context in tokens.
        d_vocab: number of token ids.
        hooks: names of all hook points, sorted.
        device: where it runs; tokens may come from anywhere.
    """

    def __init__(self, bridge: Any, *, name: str) -> None:
        if bridge.tokenizer is None:
            raise ConfigError(f"{name!r} has no tokenizer: add its tokenizer files to the folder.")
        self.name = name
        self.tokenizer = bridge.tokenizer
        self.bos = bos_token(bridge.tokenizer)
        self.max_context = int(bridge.cfg.n_ctx)
        self.d_vocab = int(bridge.cfg.d_vocab)
        self.hooks = tuple(sorted(bridge.hook_dict))
        self._bridge = bridge
        self.device = next(bridge.original_model.parameters()).device

    @classmethod
    def load(cls, name_or_dir: str | Path, *, device: str | torch.device = "cpu") -> LanguageModel:
        """Loads float32 weights; a local folder needs no network, remote code is never run.

        Raises:
            ConfigError: the folder or model cannot be loaded.
        """
        name = str(name_or_dir)
        folder = Path(name).expanduser()
        if folder.is_dir():
            if not any(folder.glob("*.safetensors")):
                raise ConfigError(
                    f"{name!r} holds no .safetensors weights; expected a Hugging Face model folder "
                    "(config.json, *.safetensors, tokenizer.json)."
                )
            name = str(folder)
        elif folder.exists() or name.startswith((".", "/", "~")) or not name:
            raise ConfigError(
                f"no model folder {name!r}: give an existing folder or a Hugging Face model name."
            )
        from transformer_lens.model_bridge import TransformerBridge
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            bridge = TransformerBridge.boot_transformers(
                name, device=str(device), trust_remote_code=False
            )
        except Exception as error:
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigError(
                f"the language model {name!r} cannot be loaded ({cause}); expected a folder in "
                "Hugging Face layout, or a model name and a network connection."
            ) from error
        return cls(bridge, name=name)

    def activations(self, tokens: Tensor, hook: str) -> Tensor:
        """Returns activations at `hook`, `[batch, position, d_in]` float32 on the model's device.

        A hook with a head dimension is flattened, `d_in = head * d_head`. The model runs only up
        to the hook's layer.

        Args:
            tokens: `[batch, position]` int64.
            hook: name of a hook point, such as `blocks.3.hook_resid_post`.

        Raises:
            ConfigError: the hook does not exist, does not fire, or is not one row per token.
        """
        seen: list[Tensor] = []

        def keep(x: Tensor, hook: Any) -> None:
            seen.append(x)

        layer = re.match(r"blocks\.(\d+)\.", hook)
        stop = int(layer[1]) + 1 if layer else None
        self._run(tokens, hook, keep, return_type=None, stop_at_layer=stop)
        if not seen:
            raise ConfigError(
                f"hook {hook!r} never fires in {self.name!r}; choose one that does, such as "
                f"{self._like('blocks.0.hook_resid_post')}."
            )
        return self._rows(seen[0], tokens, hook).float()

    def width(self, hook: str, tokens: Tensor) -> int:
        """Returns `d_in` at a hook, after checking its output for contexts of two lengths.

        The second axis has to be that of positions and the rest a width that does not follow them:
        a single shape is not enough, where an attention pattern has as many heads as the context
        has tokens.

        Args:
            hook: name of a hook point.
            tokens: `[n, position]` int64, at least one context of two tokens; only the first is
                read.

        Raises:
            ConfigError: the hook gives no activations, one row for each token.
        """
        widths = {
            self.activations(tokens[:1, :length].expand(batch, -1), hook).shape[-1]
            for batch, length in ((2, tokens.shape[1]), (3, tokens.shape[1] - 1))
        }
        if len(widths) > 1:
            raise ConfigError(
                f"hook {hook!r} was given, but its width follows the number of tokens "
                f"({sorted(widths)}), and one row of fixed width per token was expected; take "
                f"a hook such as {self._like('blocks.0.hook_resid_post')}."
            )
        return int(widths.pop())

    def run_with_hooks(
        self,
        tokens: Tensor,
        hook: str | None = None,
        replace: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Returns logits `[batch, position, d_vocab]`, the activations at `hook` replaced if given.

        Args:
            tokens: `[batch, position]` int64.
            hook: hook point to replace at; None runs the model unchanged.
            replace: `[batch, position, d_in]` float32 -> the same shape.
        """
        if hook is None or replace is None:
            with torch.no_grad():
                return self._bridge(tokens.to(self.device), return_type="logits")

        name = hook

        def splice(x: Tensor, hook: Any) -> Tensor:
            new = replace(self._rows(x, tokens, name).float())
            return new.reshape(x.shape).to(x.dtype)

        return self._run(tokens, hook, splice, return_type="logits", stop_at_layer=None)

    def _run(self, tokens: Tensor, hook: str, act: Callable[..., Any], **how: Any) -> Any:
        if hook not in self.hooks:
            raise ConfigError(
                f"{self.name!r} has no hook point {hook!r}: perhaps {self._like(hook)}. "
                "A hook point looks like `blocks.3.hook_resid_post`."
            )
        try:
            with torch.no_grad():
                return self._bridge.run_with_hooks(
                    tokens.to(self.device), fwd_hooks=[(hook, act)], **how
                )
        except ValueError as error:
            if "Cannot add hook" not in str(error):
                raise
            raise ConfigError(
                f"hook {hook!r} is switched off in {self.name!r}; choose one that fires, such as "
                f"{self._like('blocks.0.hook_resid_post')}."
            ) from error

    def _like(self, hook: str) -> str:
        near = difflib.get_close_matches(hook, self.hooks, n=3, cutoff=0.5)
        return ", ".join(near or [name for name in self.hooks if name.endswith("resid_post")][:3])

    def _rows(self, x: Tensor, tokens: Tensor, hook: str) -> Tensor:
        if hook.endswith(BETWEEN_TOKENS):
            raise ConfigError(
                f"hook {hook!r} was given, but it holds attention between tokens, and one row per "
                "token was expected; take an output such as "
                f"{self._like(hook.rpartition('.')[0] + '.hook_z')}."
            )
        if hook.endswith(SCALE):
            raise ConfigError(
                f"hook {hook!r} was given, but it holds the one number that a normalisation "
                "divides by, and the activations of a token were expected; take "
                f"{self._like(hook.rpartition('.')[0] + '.hook_normalized')}."
            )
        if x.shape[:2] != tokens.shape or x.ndim not in (3, 4) or not x.is_floating_point():
            raise ConfigError(
                f"hook {hook!r} gives {x.dtype} of shape {list(x.shape)}; expected one row per "
                f"token, {[*tokens.shape, 'd_in']}, with or without a head dimension."
            )
        return x.flatten(2)


def other_names(model: str) -> set[str]:
    """Returns the names, in lower case and without owners, of the model that TransformerLens knows
    under `model` (likewise); none where it knows no such model."""
    try:
        from transformer_lens.supported_models import MODEL_ALIASES
    except ImportError:
        return set()
    for official, others in MODEL_ALIASES.items():
        names = {name.rpartition("/")[2].lower() for name in (official, *others)}
        if model in names:
            return names
    return set()


class LanguageModelSource:
    """A `Source` of the activations of packed contexts, without BOS positions.

    Of contexts in memory, the eval split is the last twentieth (`eval_fraction`): at least one
    block, at most a fifth. With fewer than five blocks of contexts, blocks are made smaller.

    Args:
        model: the language model.
        contexts: `[n, context]` int64 from `pack_contexts`, or contexts by block.
        hook: hook point.
        contexts_per_block: contexts whose rows make a block; of contexts in memory.
        eval_fraction: share of the contexts kept for evaluation; of contexts in memory.
        cache_bytes: memory for computed blocks, so that a second epoch runs no model.
        leave_out: positions that are no rows; BOS alone unless given.
        text: what messages call the text of the contexts.

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
        contexts_per_block: int = CONTEXTS_PER_BLOCK,
        eval_fraction: float = 0.05,
        cache_bytes: int = 1 << 30,
        leave_out: LeaveOut | None = None,
        text: str = "the text",
    ) -> None:
        self.leave_out = leave_out or LeaveOut(model.bos)
        if isinstance(contexts, Tensor):
            check_contexts(model, contexts, text)
            contexts = self._in_memory(contexts, contexts_per_block, eval_fraction)
        self.contexts_by_block: ContextBlocks = contexts
        first = contexts.block(0, "eval").tokens
        check_contexts(model, first, text, least=1)
        self.model, self.hook = model, hook
        self.d_in = model.width(hook, first)
        _check_predictions(model, contexts.read("eval").tokens)
        self._kept: dict[tuple[Split, int], Tensor] = {}
        self.cache_bytes = self._room = cache_bytes

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
            kept = self._compute(index, split)
            size = kept.numel() * kept.element_size()
            if size <= self._room:
                self._room -= size
                self._kept[split, index] = kept
        return Block(x=kept.clone(), fired=None)

    def where(self, index: int, split: Split, row: int) -> str:
        return f"row {row} of {split} block {index} of {self.hook} in {self.model.name!r}"

    def _compute(self, index: int, split: Split) -> Tensor:
        parts = []
        contexts = self.contexts_by_block.block(index, split)
        on_cpu = self.model.device.type == "cpu"
        context = contexts.tokens.shape[1]
        together = max(1, CPU_TOKENS // context) if on_cpu else len(contexts.tokens)
        for tokens, kept in zip(
            contexts.tokens.split(together), contexts.kept.split(together), strict=True
        ):
            x = self.model.activations(tokens, self.hook).cpu()
            parts.append(x[kept])
        rows = torch.cat(parts)
        finite = rows.isfinite().all(dim=1)
        if not finite.all():
            raise ConfigError(
                f"{self.hook} of {self.model.name!r}: row {int((~finite).nonzero()[0])} of {split} "
                f"block {index} is not finite; expected finite activations, check the weights."
            )
        return rows


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
