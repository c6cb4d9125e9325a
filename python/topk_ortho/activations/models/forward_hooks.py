"""Hook points by forward hooks on a model of transformers: a pass ends at the last one asked for.

No block is wrapped, attention is the implementation that is fastest there, and neither a key-value
cache nor logits are computed where only activations are wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from topk_ortho.activations.models.backend import Act
from topk_ortho.activations.models.hooks import RESIDUAL_INSIDE, layer_of
from topk_ortho.activations.models.layouts import Layout, Place
from topk_ortho.activations.models.remembering import Begun

NAME = "transformers"
CONTEXT_FIELDS = ("n_positions", "max_position_embeddings", "max_length", "seq_length")
"""Settings that say how long a context may be, the first that a model has, as transformer_lens."""
DEFAULT_CONTEXT = 2048


class _Enough(Exception):
    """Everything that was asked for has been seen."""


class Transformers:
    """A model of transformers as a `Backend`; `layout` says where its hook points are."""

    name = NAME

    def __init__(self, model: Any, tokenizer: Any, layout: Layout) -> None:
        self._model, self._layout = model.eval(), layout
        self._layers = attrgetter(layout.layers)(model)
        self.hooks = layout.hooks(len(self._layers))
        self.tokenizer = tokenizer
        embedding = model.get_input_embeddings().weight
        self.device, self.dtype = embedding.device, embedding.dtype
        self.d_vocab = int(model.config.vocab_size)
        self.d_model = int(model.config.hidden_size)
        self.d_mlp = int(getattr(model.config, "intermediate_size", None) or 4 * self.d_model)
        self.weights = sum(weight.numel() for weight in model.parameters())
        self.max_context = _max_context(model.config)
        self._form: int | None = None  # entries of a block's output, None where it is a tensor

    def capture(self, tokens: Tensor, hooks: Sequence[str]) -> dict[str, Tensor]:
        """As in `Backend`; of the last block, only what comes before the hook point is run."""
        seen: dict[str, Tensor] = {}

        def keep(hook: str) -> Act:
            def act(x: Tensor) -> None:
                seen[hook] = x
                if len(seen) == len(hooks):
                    raise _Enough

            return act

        acts = {hook: keep(hook) for hook in hooks}
        with self._hooked(acts), torch.inference_mode(), suppress(_Enough):
            self._run(tokens)
        # a tensor of inference mode could not be trained on
        return {hook: x.clone() for hook, x in seen.items()}

    @torch.no_grad()
    def logits(self, tokens: Tensor, acts: Mapping[str, Act], begun: Begun | None = None) -> Tensor:
        """As in `Backend`; the blocks before the first hook point are run once."""
        first = min((layer_of(hook) or 0 for hook in acts), default=len(self._layers))
        beginning = nullcontext() if begun is None else self._beginning(first, begun)
        with beginning, self._hooked({hook: _spliced(hook, act) for hook, act in acts.items()}):
            return self._run(tokens).logits

    def _run(self, tokens: Tensor) -> Any:
        return self._model(input_ids=tokens.to(self.device), use_cache=False)

    @contextmanager
    def _beginning(self, first: int, begun: Begun) -> Iterator[None]:
        """A context in which a pass begins at block `first` where `begun` has what goes into it,
        and leaves it there otherwise."""
        known = begun.get(first)

        def act(x: Tensor) -> Tensor | None:
            if known is None:
                begun[first] = x
            return known

        behind = first == len(self._layers)
        at, place = (first - 1, Place("", "out")) if behind else (first, Place("", "in"))
        passed = [] if known is None else list(self._layers[:first])
        handles = [_attach(self._layers[at], place, act)]
        handles += [self._layers[0].register_forward_hook(self._see_form)]
        try:
            with _passing_on(passed, self._form):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _see_form(self, module: Any, args: Any, output: Any) -> None:
        self._form = len(output) if isinstance(output, tuple) else None

    @contextmanager
    def _hooked(self, acts: dict[str, Act]) -> Iterator[None]:
        handles = []
        try:
            for hook, act in acts.items():
                layer = layer_of(hook)
                assert layer is not None
                place = self._layout.places[hook.rpartition(".")[2]]
                handles.append(_attach(self._layers[layer], place, act))
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def _passing_on(blocks: Sequence[Any], form: int | None) -> Iterator[None]:
    """A context in which blocks do nothing but pass on what they get, in the form of an output."""

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return hidden_states if form is None else (hidden_states, *[None] * (form - 1))

    own = [vars(block).get("forward") for block in blocks]  # what accelerate puts there
    try:
        for block in blocks:
            block.forward = forward
        yield
    finally:
        for block, before in zip(blocks, own, strict=True):
            if before is None:
                vars(block).pop("forward", None)
            else:
                block.forward = before


def _spliced(hook: str, act: Act) -> Act:
    def inside(x: Tensor) -> Tensor | None:
        new = act(x)
        # the block adds to the tensor that its normalisation reads: it has to be that tensor
        return None if new is None else x.copy_(new)

    return inside if hook.endswith(RESIDUAL_INSIDE) else act


def _attach(block: Any, place: Place, act: Act) -> Any:
    module = block.get_submodule(place.module)
    if place.side == "in":
        return module.register_forward_pre_hook(_on_input(act), with_kwargs=True)
    return module.register_forward_hook(_on_output(act))


def _on_input(act: Act) -> Any:
    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            new = act(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        new = act(kwargs["hidden_states"])
        return None if new is None else (args, {**kwargs, "hidden_states": new})

    return hook


def _on_output(act: Act) -> Any:
    def hook(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            new = act(output[0])
            return None if new is None else (new, *output[1:])
        return act(output)

    return hook


def _max_context(config: Any) -> int:
    for name in CONTEXT_FIELDS:
        if isinstance(length := getattr(config, name, None), int):
            return length
    return DEFAULT_CONTEXT
