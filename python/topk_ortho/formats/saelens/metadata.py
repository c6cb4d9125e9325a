"""Metadata of SAELens by which an SAE's activations differ from those of a model here.

The model runs here as Hugging Face has it, in contexts that begin with BOS where it has one, and
BOS itself is left out. Every setting of SAELens that changes activations is applied, refused where
it is read (`layout.py`), listed here, or harmless:

| setting | what happens |
|---|---|
| `apply_b_dec_to_input`, `rescale_acts_by_decoder_norm` | folded into the weights |
| `normalize_activations`, `reshape_activations` | refused when read, unless `none` |
| `model_from_pretrained_kwargs` | those that change what the hook gives are listed |
| `hook_head_index`, `seqpos_slice`, `model_class_name` | listed if different here |
| `hook_name`, `model_name`, `context_size`, `prepend_bos` | fields of `StoredSAE` |
| `exclude_special_tokens`, `dtype`, `device`, data set, separators | kept, no other activations |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HARMLESS = ("center_unembed", "device", "dtype", "torch_dtype", "n_devices", "trust_remote_code",
            "default_padding_side", "default_prepend_bos", "move_to_device", "token",
            "cache_dir", "local_files_only", "low_cpu_mem_usage", "attn_implementation",
            "device_map", "first_n_layers")  # fmt: skip
"""Arguments of TransformerLens that change no hook's activations, but for rounding."""
AT_SOME_HOOKS = {
    "fold_ln": r"hook_normalized$",
    "fold_value_biases": r"attn\.hook_(v|z)$",
    "refactor_factored_attn_matrices": r"attn\.hook_(q|k|v|z)$",
}
"""Arguments that matter at these hooks alone."""


def processing(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the settings that make the SAE's activations differ, such as `a.b = True`."""
    kwargs = metadata.get("model_from_pretrained_kwargs") or {}
    hook = str(metadata.get("hook_name") or "")
    if not isinstance(kwargs, dict):
        return (f"model_from_pretrained_kwargs = {kwargs!r}",)
    found = [
        f"model_from_pretrained_kwargs.{name} = {value!r}"
        for name, value in kwargs.items()
        if value and name not in HARMLESS and re.search(AT_SOME_HOOKS.get(name, ""), hook)
    ]
    usual: dict[str, tuple[Any, ...]] = {
        "hook_head_index": (None,),
        "seqpos_slice": (None, [None], [1, None], [0, None]),
        "model_class_name": (None, "HookedTransformer", "AutoModelForCausalLM"),
    }
    for name, values in usual.items():
        if metadata.get(name) not in values:
            found.append(f"{name} = {metadata[name]!r}")
    return tuple(found)
