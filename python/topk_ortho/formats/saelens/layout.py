"""Names, values and shapes of SAELens' layout, which reading and writing share."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor

from topk_ortho.config import ConfigError
from topk_ortho.config.registry import ARCHITECTURES

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

SAELENS_VERSION = "6.0.0"
"""The release whose layout is written; without it SAELens converts the file as one of before 6."""

KINDS = {"topk": "topk", "standard": "relu", "jumprelu": "jumprelu"}
"""Our architecture that has the codes of theirs, where nothing else is known."""
TRANSCODERS = {
    "transcoder": "standard",
    "jumprelu_transcoder": "jumprelu",
    "topk_transcoder": "topk",
}
"""Architectures that reconstruct other activations than they read, and those with the same codes;
SAELens itself has none of TopK."""
IN_TRAINING = {"batchtopk": "batch-topk", "matryoshka_batchtopk": "matryoshka"}
"""Checkpoints of SAELens' training, which has one threshold beside the weights."""
OURS = "topk_ortho"  # our own entry among SAELens' free metadata
SHA256 = "weights_sha256"  # beside the metadata, so that SAELens drops it when it saves others
SWITCHES = ("apply_b_dec_to_input", "rescale_acts_by_decoder_norm")
PLAIN: dict[str, tuple[Any, ...]] = {
    "normalize_activations": ("none", None),
    "reshape_activations": ("none", None),
    "finetuning_scaling_factor": (False, None),
    "activation_fn": ("relu", None, "topk"),
    "activation_fn_str": ("relu", None, "topk"),
}
"""Settings of `cfg.json`: the values that compute what we do; the first is written."""
WRITTEN = {"normalize_activations": "none", "reshape_activations": "none"}


def architecture_of(kind: str) -> str:
    """Returns their architecture that has the codes of one of ours."""
    theirs = {"topk": "topk", "relu": "standard", "threshold": "jumprelu"}
    return theirs[ARCHITECTURES[kind].inference]


def transcoder_of(architecture: str) -> str:
    """Returns the transcoder that has the codes of one of their architectures."""
    return next(name for name, codes in TRANSCODERS.items() if codes == architecture)


def check_shapes(tensors: Mapping[str, Tensor], *, transcoder: bool = False) -> None:
    """Refuse tensors that are none of one SAE, before anything is computed from them.

    Args:
        tensors: by name.
        transcoder: whether the decoder may have another width than the encoder.

    Raises:
        ConfigError: the first of them.
    """
    if tensors["W_enc"].ndim != 2:
        raise ConfigError(
            f"W_enc has shape {tuple(tensors['W_enc'].shape)}, expected [d_in, d_sae]"
        )
    d_in, d_sae = tensors["W_enc"].shape
    d_out = tensors["b_dec"].numel() if transcoder else d_in
    shapes = {
        "W_enc": (d_in, d_sae),
        "b_enc": (d_sae,),
        "W_dec": (d_sae, d_out),
        "b_dec": (d_out,),
        "threshold": (d_sae,),
    }
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            raise ConfigError(
                f"{name} has shape {tuple(tensor.shape)}, expected {shapes[name]} beside W_enc "
                f"of shape {(d_in, d_sae)}"
            )
        if not tensor.is_floating_point():
            raise ConfigError(f"{name} has dtype {tensor.dtype}, expected floating-point numbers")


def one_number(name: str, tensor: Tensor) -> float:
    """Returns the value of a tensor that holds one.

    Raises:
        ConfigError: it holds none, or several.
    """
    if tensor.numel() != 1:
        raise ConfigError(f"{name} has shape {tuple(tensor.shape)}, expected one number")
    return tensor.item()


def checked_prefixes(prefixes: Any, *, d_sae: int) -> tuple[int, ...]:
    """The numbers of features that a file names as prefixes.

    Raises:
        ConfigError: they are no such numbers.
    """
    whole = isinstance(prefixes, list | tuple) and all(type(p) is int for p in prefixes)
    if not whole or any(a >= b for a, b in pairwise([0, *prefixes, d_sae + 1])):
        raise ConfigError(
            f"the prefixes are {prefixes!r}, but rising numbers of features from 1 to {d_sae} were "
            "expected"
        )
    return tuple(prefixes)


def check_tensors(
    tensors: Mapping[str, Tensor], *, architecture: str, k: float | None, transcoder: bool = False
) -> None:
    """Refuse shapes, values and settings that make no SAE of the architecture.

    Raises:
        ConfigError: the first of them.
    """
    check_shapes(tensors, transcoder=transcoder)
    d_sae = len(tensors["b_enc"])
    for name, tensor in tensors.items():
        # A feature may be switched off by an infinite threshold.
        bad = tensor.isnan() if name == "threshold" else ~tensor.isfinite()
        if bool(bad.any()):
            raise ConfigError(
                f"{name} holds a value that is not finite; such an SAE cannot be used"
            )
    if (architecture == "jumprelu") != ("threshold" in tensors):
        expected = "a threshold [d_sae]" if architecture == "jumprelu" else "no threshold"
        raise ConfigError(f"the architecture {architecture} takes {expected}")
    a_number = isinstance(k, int | float) and not isinstance(k, bool)
    if k is not None and not (a_number and 0 < k <= d_sae):
        raise ConfigError(
            f"k is {k!r}, but the number of features that fire on a row was expected, above 0 and "
            f"at most {d_sae}"
        )
    if architecture == "topk" and not (k is not None and 1 <= k <= d_sae and float(k).is_integer()):
        raise ConfigError(
            f"k is {k}, but a topk SAE needs a whole number from 1 to {d_sae}; use batch-topk for "
            "a mean L0 that is none"
        )
