"""A random two-layer Llama with a tokenizer of characters, in Hugging Face layout.

For tests of the language-model code in a clone without data. `shared()` builds once per process.
"""

from __future__ import annotations

import functools
import string
import tempfile
from pathlib import Path

SPECIAL = ("<unk>", "<s>", "</s>")
ALPHABET = string.ascii_lowercase + string.ascii_uppercase + " .,\n'!?-"
D_MODEL, N_LAYERS, N_HEADS, MAX_CONTEXT = 32, 2, 4, 64

_kept: list[tempfile.TemporaryDirectory[str]] = []


def build(folder: Path) -> Path:
    """Writes config, weights (seed 0) and tokenizer to `folder` and returns it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(ALPHABET),
        hidden_size=D_MODEL,
        intermediate_size=48,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=2,
        max_position_embeddings=MAX_CONTEXT,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


@functools.cache
def shared() -> Path:
    """The folder of the one build of this process, removed when it ends."""
    _kept.append(tempfile.TemporaryDirectory(prefix="tiny-llama-"))
    return build(Path(_kept[-1].name))


def stories(n: int = 40) -> list[str]:
    """Short texts of the tokenizer's alphabet, all different."""
    names = ("Tim", "Lily", "Ben", "Mia")
    things = ("a red ball", "the old dog", "some warm bread")
    return [
        f"{names[i % 4]} saw {things[i % 3]}. " + "It was good. " * (2 + i % 5) for i in range(n)
    ]


def _tokenizer():
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *ALPHABET))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        model_max_length=MAX_CONTEXT,
    )
