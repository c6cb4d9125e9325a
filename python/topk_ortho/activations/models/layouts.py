"""The modules of transformers' models that TransformerLens' hook points stand for.

Only families whose hook points were compared with those of transformer_lens are here, number by
number (`tests/activations/models/test_families.py`); every other model is left to its bridge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Place:
    """One side of a module.

    Attributes:
        module: its name inside a block, "" for the block itself.
        side: what goes in, or what comes out.
    """

    module: str
    side: Literal["in", "out"]


@dataclass(frozen=True)
class Layout:
    """The hook points of a family of models.

    Attributes:
        layers: the name of the list of its blocks.
        places: by the last part of a hook point's name, where it is in each block.
    """

    layers: str
    places: Mapping[str, Place] = field(default_factory=dict)

    def hooks(self, n_layers: int) -> tuple[str, ...]:
        """Returns the names of all hook points."""
        return tuple(f"blocks.{n}.{end}" for n in range(n_layers) for end in self.places)


def _layout(layers: str, *, attn: str, mlp: str, mid: Place | None) -> Layout:
    places = {
        "hook_resid_pre": Place("", "in"),
        "hook_attn_out": Place(attn, "out"),
        "hook_resid_mid": mid,
        "hook_mlp_out": Place(mlp, "out"),
        "hook_resid_post": Place("", "out"),
    }
    return Layout(layers, {end: place for end, place in places.items() if place is not None})


_LLAMA = _layout(
    "model.layers", attn="self_attn", mlp="mlp", mid=Place("post_attention_layernorm", "in")
)
_GPT2 = _layout("transformer.h", attn="attn", mlp="mlp", mid=Place("ln_2", "in"))
_NORMED_TWICE = _layout(
    "model.layers",
    attn="post_attention_layernorm",
    mlp="post_feedforward_layernorm",
    mid=Place("pre_feedforward_layernorm", "in"),
)
_NORMED_AFTER = _layout(
    "model.layers",
    attn="post_attention_layernorm",
    mlp="post_feedforward_layernorm",
    mid=Place("mlp", "in"),
)
_PARALLEL = _layout("model.layers", attn="self_attn", mlp="mlp", mid=None)
_PARALLEL_GPTJ = _layout("transformer.h", attn="attn", mlp="mlp", mid=None)
_PARALLEL_NEOX = _layout("gpt_neox.layers", attn="attention", mlp="mlp", mid=None)

LAYOUTS: dict[str, Layout] = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "olmo", "starcoder2", "smollm3"),
        _LLAMA,
    ),
    **dict.fromkeys(("gpt2", "gpt_bigcode", "gpt_neo"), _GPT2),
    **dict.fromkeys(("gemma2", "gemma3_text"), _NORMED_TWICE),
    **dict.fromkeys(("olmo2", "olmo3"), _NORMED_AFTER),
    "phi": _PARALLEL,
    "gptj": _PARALLEL_GPTJ,
    "gpt_neox": _PARALLEL_NEOX,
}
"""By `model_type` of the configuration of transformers."""


def layout_of(config: Any) -> Layout | None:
    """Returns the layout of a model by its configuration of transformers, None if not known."""
    if getattr(config, "use_parallel_residual", True) is False:
        return None  # of gpt_neox: its blocks are then wired in another way
    return LAYOUTS.get(config.model_type)
