"""Tiny random models of each family that the backend transformers knows, as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny_llama

VOCABULARY = len(tiny_llama.SPECIAL) + len(tiny_llama.ALPHABET)
_IDS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2}
_LLAMA = {**_IDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
          "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0}  # fmt: skip
_GROUPED = {**_LLAMA, "num_key_value_heads": 2}
_GPT = {**_IDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_NEO = {**_IDS, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48,
        "attention_types": [[["global", "local"], 1]], "window_size": 8,
        "max_position_embeddings": 64}  # fmt: skip

SETTINGS: dict[str, dict[str, Any]] = {
    "llama": _GROUPED,
    "mistral": {**_GROUPED, "sliding_window": 8},
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "gemma": {**_GROUPED, "head_dim": 8},
    "phi3": _GROUPED,
    "olmo": _GROUPED,
    "starcoder2": _GROUPED,
    "smollm3": _GROUPED,
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gpt_neo": _NEO,
    "gemma2": {**_GROUPED, "head_dim": 8, "sliding_window": 8},
    "gemma3_text": {**_GROUPED, "head_dim": 8, "sliding_window": 8},
    "olmo2": _GROUPED,
    "olmo3": {**_GROUPED, "sliding_window": 8},
    "phi": _LLAMA,
    "gptj": {**_GPT, "rotary_dim": 4},
    "gpt_neox": _LLAMA,
}
"""By `model_type`; contexts are longer than the sliding windows."""


def build(folder: Path, kind: str, **changed: Any) -> Path:
    """Writes config, weights (seed 0; norms and biases are not 1 and 0) and tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **{**SETTINGS[kind], **changed})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tiny_llama._tokenizer().save_pretrained(folder)
    return folder


def tokens() -> Any:
    """Three contexts of 16 random tokens after BOS, `[3, 16]` int64."""
    import torch

    ids = torch.randint(3, VOCABULARY, (3, 16), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 1
    return ids
