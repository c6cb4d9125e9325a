"""The bridge of transformer_lens: every hook point, with its own attention.

Importing transformer_lens takes seconds, so it happens where a model is loaded. Weights are those
of the checkpoint: the bridge folds no normalisation and centres nothing unless it is told to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from topk_ortho.activations.models.backend import Act
from topk_ortho.activations.models.hooks import RESIDUAL_INSIDE, layer_of
from topk_ortho.activations.models.remembering import Begun

NAME = "transformer-lens"


class TransformerLens:
    """A `TransformerBridge` as a `Backend`."""

    name = NAME

    def __init__(self, bridge: Any) -> None:
        self._bridge = bridge
        self.hooks = tuple(bridge.hook_dict)
        self.tokenizer = bridge.tokenizer
        self.max_context = int(bridge.cfg.n_ctx)
        self.d_vocab = int(bridge.cfg.d_vocab)
        self.d_model = int(bridge.cfg.d_model)
        self.d_mlp = int(bridge.cfg.d_mlp or 4 * self.d_model)
        self.weights = sum(weight.numel() for weight in bridge.parameters())
        embedding = bridge.original_model.get_input_embeddings().weight
        self.device, self.dtype = embedding.device, embedding.dtype

    def capture(self, tokens: Tensor, hooks: Sequence[str]) -> dict[str, Tensor]:
        """As in `Backend`; whole blocks are run."""
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def act(x: Tensor, hook: Any) -> None:
                seen.setdefault(name, x)

            return act

        layers = [layer_of(hook) for hook in hooks]
        last = None if None in layers else max(layer for layer in layers if layer is not None) + 1
        acts = [(hook, keep(hook)) for hook in hooks]
        self._run(tokens, acts, return_type=None, stop_at_layer=last)
        return seen

    def logits(self, tokens: Tensor, acts: Mapping[str, Act], begun: Begun | None = None) -> Tensor:
        """As in `Backend`; every pass is a whole one."""
        if not acts:
            with torch.no_grad():
                return self._bridge(tokens.to(self.device), return_type="logits")
        hooks = [(name, _hook(name, act)) for name, act in acts.items()]
        return self._run(tokens, hooks, return_type="logits", stop_at_layer=None)

    def _run(self, tokens: Tensor, acts: list[tuple[str, Any]], **how: Any) -> Any:
        try:
            with torch.no_grad():
                return self._bridge.run_with_hooks(tokens.to(self.device), fwd_hooks=acts, **how)
        except ValueError as error:
            if "Cannot add hook" not in str(error):
                raise
            off = next((hook for hook, _ in acts if hook in str(error)), acts[0][0])
            raise LookupError(off) from error


def _hook(name: str, act: Act) -> Any:
    def hook_fn(x: Tensor, hook: Any) -> Tensor | None:
        new = act(x)
        # the block adds to the tensor that its normalisation reads: it has to be that tensor
        return x.copy_(new) if new is not None and name.endswith(RESIDUAL_INSIDE) else new

    return hook_fn


def bridge(name: str, *, model: Any = None, tokenizer: Any = None, **how: Any) -> TransformerLens:
    """Returns a model as the bridge loads it, or around one that is loaded already."""
    from transformer_lens.model_bridge import TransformerBridge

    given = {"hf_model": model, "tokenizer": tokenizer} if model is not None else how
    return TransformerLens(
        TransformerBridge.boot_transformers(name, trust_remote_code=False, **given)
    )


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
