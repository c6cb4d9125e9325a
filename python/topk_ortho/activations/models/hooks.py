"""Hook points by their TransformerLens names; what is at one has to be a row per token."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from torch import Tensor

from topk_ortho.config import ConfigError

BETWEEN_TOKENS = ("hook_pattern", "hook_attn_scores")
"""Ends of the names of hook points that hold one number for two tokens."""
SCALE = "hook_scale"
"""End of the names of hook points that hold the one number a normalisation divides by."""
RESIDUAL_INSIDE = "hook_resid_mid"
"""End of the names of hook points that a block reads twice: to normalise it, and to add to it."""


def layer_of(hook: str) -> int | None:
    """Returns the layer of a hook point, None where it is in none."""
    layer = re.match(r"blocks\.(\d+)\.", hook)
    return int(layer[1]) if layer else None


def near(hook: str, hooks: Sequence[str]) -> str:
    """Returns up to three of `hooks` that are named like `hook`, or that can always be taken."""
    found = difflib.get_close_matches(hook, hooks, n=3, cutoff=0.5)
    return ", ".join(found or [name for name in hooks if name.endswith("resid_post")][:3])


def rows(x: Tensor, tokens: Tensor, hook: str, hooks: Sequence[str]) -> Tensor:
    """Returns what is at a hook point as `[batch, position, d_in]`, heads flattened.

    Args:
        x: what is there.
        tokens: `[batch, position]`, what the model read.
        hook: the hook point.
        hooks: all hook points of the model, for the message.

    Raises:
        ConfigError: it is not one row per token.
    """
    if hook.endswith(BETWEEN_TOKENS):
        raise ConfigError(
            f"hook {hook!r} was given, but it holds attention between tokens, and one row per "
            "token was expected; take an output such as "
            f"{near(hook.rpartition('.')[0] + '.hook_z', hooks)}."
        )
    if hook.endswith(SCALE):
        raise ConfigError(
            f"hook {hook!r} was given, but it holds the one number that a normalisation "
            "divides by, and the activations of a token were expected; take "
            f"{near(hook.rpartition('.')[0] + '.hook_normalized', hooks)}."
        )
    if x.shape[:2] != tokens.shape or x.ndim not in (3, 4) or not x.is_floating_point():
        raise ConfigError(
            f"hook {hook!r} gives {x.dtype} of shape {list(x.shape)}; expected one row per "
            f"token, {[*tokens.shape, 'd_in']}, with or without a head dimension."
        )
    return x.flatten(2)
