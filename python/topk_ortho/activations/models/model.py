"""A language model whose activations can be read and replaced at named hook points.

A pass costs the layers up to the last hook point that is asked for. Refused: hook points that do
not exist or do not fire, and those that do not hold one row per token.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topk_ortho.activations.models.backend import Act, Backend
from topk_ortho.activations.models.hooks import near, rows
from topk_ortho.activations.models.memory import ModelSizes
from topk_ortho.activations.models.remembering import Begun, Remembering
from topk_ortho.activations.text import bos_token
from topk_ortho.config import ConfigError
from topk_ortho.machine.forecast import Place


class LanguageModel:
    """A causal language model with named hook points.

    Attributes:
        name: the name, folder or file it was loaded from.
        tokenizer: its Hugging Face tokenizer.
        bos: id of the token that every context starts with and that separates documents.
        max_context: longest context in tokens.
        d_vocab: number of token ids.
        weights: how many it has.
        hooks: names of all hook points, sorted.
        device: where it runs; tokens may come from anywhere.
        described: backend, type of the weights, device, and why it is that backend, as a manifest
            has them.
        remembering: this model for passes that are repeated with other replacements.
    """

    def __init__(self, backend: Backend, *, name: str, why: str = "") -> None:
        if backend.tokenizer is None:
            raise ConfigError(f"{name!r} has no tokenizer: add its tokenizer files to the folder.")
        self.name = name
        self.tokenizer = backend.tokenizer
        self.bos = bos_token(backend.tokenizer)
        self.max_context = backend.max_context
        self.d_vocab = backend.d_vocab
        self.weights = backend.weights
        self.hooks = tuple(sorted(backend.hooks))
        self.device = backend.device
        self.described = {
            "backend": backend.name,
            "dtype": str(backend.dtype).removeprefix("torch."),
            "device": str(backend.device),
        }
        if why:
            self.described["why"] = why
        self._backend = backend
        self._ablated: dict[Hashable, dict[str, float]] = {}
        self.remembering = Remembering(self)

    @classmethod
    def load(
        cls,
        name_or_dir: str | Path,
        *,
        device: str | torch.device = "cpu",
        hooks: Sequence[str] = (),
        **how: Any,
    ) -> LanguageModel:
        """Loads a model; a local folder needs no network, remote code is never run.

        Args:
            name_or_dir: a Hugging Face name, a folder in that layout, or a GGUF file.
            device: where it runs, unless `device_map` says so.
            hooks: the hook points that will be asked for, by which the backend is chosen; without
                any it is the one that has them all.
            **how: the other arguments of `loading.load`.

        Raises:
            ConfigError: the model cannot be loaded.
        """
        from topk_ortho.activations.models.loading import load

        name, backend, why = load(name_or_dir, device=device, hooks=hooks, **how)
        return cls(backend, name=name, why=why)

    def sizes(self, device: torch.device) -> ModelSizes:
        """Returns the sizes that its memory is forecast from, in a run that trains on `device`."""
        b, on = self._backend, self.device
        place: Place | None = "host" if on.type == "cpu" else "device" if on == device else None
        return ModelSizes(b.d_model, b.d_mlp, b.d_vocab, b.dtype.itemsize, place)

    def ablated(self, at: Hashable) -> dict[str, float]:
        """Returns what was found of ablations, `at` saying where and on what; empty before.

        Whoever measures them fills it in, so that several SAEs measure them once.
        """
        return self._ablated.setdefault(at, {})

    def activations(self, tokens: Tensor, hook: str) -> Tensor:
        """Returns activations at `hook`, `[batch, position, d_in]` float32 on the model's device.

        Args:
            tokens: `[batch, position]` int64.
            hook: name of a hook point, such as `blocks.3.hook_resid_post`.

        Raises:
            ConfigError: the hook does not exist, does not fire, or is not one row per token.
        """
        return self.activations_at(tokens, [hook])[hook]

    def activations_at(self, tokens: Tensor, hooks: Sequence[str]) -> dict[str, Tensor]:
        """Returns activations at each of `hooks` from one pass, `[batch, position, d_in]` float32.

        A hook with a head dimension is flattened, `d_in = head * d_head`. The model runs only up
        to the last layer of the hooks.

        Args:
            tokens: `[batch, position]` int64.
            hooks: names of hook points.

        Raises:
            ConfigError: a hook does not exist, does not fire, or is not one row per token.
        """
        hooks = tuple(dict.fromkeys(hooks))
        self._check(*hooks)
        try:
            seen = self._backend.capture(tokens, hooks)
        except LookupError as error:
            raise self._switched_off(error) from error
        for hook in hooks:
            if hook not in seen:
                raise ConfigError(
                    f"hook {hook!r} never fires in {self.name!r}; choose one that does, such as "
                    f"{self._like('blocks.0.hook_resid_post')}."
                )
        return {hook: rows(seen[hook], tokens, hook, self.hooks).float() for hook in hooks}

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

    def check_order(self, hook: str, hook_out: str, tokens: Tensor) -> None:
        """Refuse a hook point of targets that comes before the one that is read.

        Args:
            hook: hook point that is read.
            hook_out: hook point of the targets.
            tokens: `[n, position]` int64; only the first is read.

        Raises:
            ConfigError: it does.
        """
        self.run_with_hooks(tokens[:1], hook_out, lambda x, x_in: x, hook_in=hook)

    def run_with_hooks(
        self,
        tokens: Tensor,
        hook: str | None = None,
        replace: Callable[..., Tensor] | None = None,
        *,
        hook_in: str = "",
        begun: Begun | None = None,
    ) -> Tensor:
        """Returns logits `[batch, position, d_vocab]`, the activations at `hook` replaced if given.

        Args:
            tokens: `[batch, position]` int64.
            hook: hook point to replace at; None runs the model unchanged.
            replace: `[batch, position, d_in]` float32 -> the same shape; with `hook_in` it gets
                what is there as well, `replace(x, x_in)`.
            hook_in: hook point that is read in the same pass.
            begun: what earlier passes over the same tokens left, from which this one begins; it
                leaves there what it has. `remembering` sees to that.

        Raises:
            ConfigError: `hook_in` comes after `hook`, or one of them cannot be used.
        """
        if hook is None or replace is None:
            return self._backend.logits(tokens, {}, begun)
        name = hook
        seen: list[Tensor] = []

        def read(x: Tensor) -> None:
            seen.append(rows(x, tokens, hook_in, self.hooks).float())

        def splice(x: Tensor) -> Tensor:
            if hook_in and not seen:
                raise _too_early(name, hook_in)
            new = replace(rows(x, tokens, name, self.hooks).float(), *seen)
            return new.reshape(x.shape).to(x.dtype)

        acts: dict[str, Act] = {hook: splice} | ({hook_in: read} if hook_in else {})
        self._check(*acts)
        try:
            return self._backend.logits(tokens, acts, begun)
        except LookupError as error:
            raise self._switched_off(error) from error

    def _check(self, *hooks: str) -> None:
        for hook in hooks:
            if hook not in self.hooks:
                raise ConfigError(
                    f"{self.name!r} has no hook point {hook!r}: perhaps {self._like(hook)}. "
                    "A hook point looks like `blocks.3.hook_resid_post`."
                )

    def _switched_off(self, error: LookupError) -> ConfigError:
        return ConfigError(
            f"hook {error.args[0]!r} is switched off in {self.name!r}; choose one that fires, such "
            f"as {self._like('blocks.0.hook_resid_post')}."
        )

    def _like(self, hook: str) -> str:
        return near(hook, self.hooks)


def _too_early(hook_out: str, hook: str) -> ConfigError:
    return ConfigError(
        f"--hook-out {hook_out} was given, but it comes before --hook {hook} in a pass, and "
        "a later hook point was expected, where the reconstruction can be put; swap them, or take "
        "another."
    )
