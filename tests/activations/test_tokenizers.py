"""Tokens that train are those that the model's tokenizer gives for the same text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from topk_ortho.activations.text import pack_contexts

TEXTS = (
    "The quick brown fox! It jumps, over the lazy dog.\n  Two blanks. [x] <y> {z}",
    "שלום עולם, \u202bمرحبا\u202c بالعالم",
    "a\u0301 é 日本語 🙂🙂\ttab",
    "!!! \n\n ... unk EOS",
)


def byte_level():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def words():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {"[UNK]": 0, "<s>": 1, "</s>": 2}
    for text in TEXTS:
        for word in text.lower().split():
            vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def padded():
    """One whose file says to pad and to cut, which is not for texts that are packed."""
    tokenizer = byte_level()
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(4)
    return tokenizer


def fast(make: Callable, folder: Path, **special: object):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=make(), **special).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


END = {"eos_token": "<|end|>"}
CASES = {
    "no BOS": (byte_level, END),
    "an empty padding token": (byte_level, END | {"pad_token": ""}),
    "padding by a mark of the text": (byte_level, END | {"pad_token": "!"}),
    "padding by a line break": (byte_level, END | {"pad_token": "\n"}),
    "padding by a word of the text": (byte_level, END | {"pad_token": "unk"}),
    "padding by a blank": (byte_level, END | {"pad_token": " "}),
    "padding by letters of other tokens": (byte_level, END | {"pad_token": "fox"}),
    "overlapping special tokens": (
        byte_level,
        END | {"additional_special_tokens": ["<|end", "<|end|>|>"], "pad_token": "<|pad|>"},
    ),
    "words with BOS": (words, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "[UNK]"}),
    "padding and cutting in the file": (padded, END),
}


@pytest.mark.parametrize("case", CASES)
def test_packed_tokens_are_those_of_the_texts(case: str, tmp_path: Path) -> None:
    make, special = CASES[case]
    tokenizer = fast(make, tmp_path, **special)
    expected: list[int] = []
    for text in TEXTS:
        expected += [*tokenizer(text, add_special_tokens=False)["input_ids"], -1]
    rows = pack_contexts(tokenizer, TEXTS, len(expected), bos=-1)
    assert rows[0, 1:].tolist() == expected[:-1]


def test_added_tokens_that_are_text_are_tokens(tmp_path: Path) -> None:
    tokenizer = fast(byte_level, tmp_path, **END)
    tokenizer.add_tokens(["brown fox"])
    ids = tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_tokens_to_ids("brown fox") in ids
    assert pack_contexts(tokenizer, TEXTS[:1], len(ids) + 1)[0, 1:].tolist() == ids


@pytest.mark.parametrize("marker", ["<|end|>", "<|reserved|>", "<unk>"])
def test_a_text_cannot_spell_a_token_of_control(marker: str, tmp_path: Path) -> None:
    from tokenizers import AddedToken

    tokenizer = fast(byte_level, tmp_path, **END)
    tokenizer.add_tokens([AddedToken("<|reserved|>", special=True)], special_tokens=True)
    plain = tokenizer("one two three", add_special_tokens=False)["input_ids"]
    rows = pack_contexts(tokenizer, [f"one{marker}two three"], len(plain) + 1)
    assert rows[0, 1:].tolist() == plain
    assert torch.equal(rows, pack_contexts(tokenizer, ["one two three"], len(plain) + 1))
