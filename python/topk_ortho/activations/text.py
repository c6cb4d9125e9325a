"""Text in, packed contexts out: files or a dataset, tokenised and cut into rows of equal length.

Refused: files that are missing or no plain text, datasets without a text column, less text than one
context.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topk_ortho.activations.plain_text import open_text
from topk_ortho.config import ConfigError
from topk_ortho.config.train import check_text_file

DOCUMENTS_PER_CALL = 256
DATASET_CHARACTERS = 100_000_000


def bos_token(tokenizer: Any) -> int:
    """Returns the id of the token that starts a text: the tokenizer's BOS, else EOS, else CLS."""
    for name in ("bos_token_id", "eos_token_id", "cls_token_id"):
        token = getattr(tokenizer, name, None)
        if token is not None:
            return int(token)
    raise ConfigError("the tokenizer has no BOS, EOS or CLS token: set its `bos_token`.")


def pack_contexts(
    tokenizer: Any,
    documents: Iterable[str],
    context: int,
    bos: int | None = None,
    *,
    max_tokens: int | None = None,
    name: str = "the text",
) -> Tensor:
    """Returns tokenised documents, concatenated, in rows of equal length, `[n, context]` int64.

    Every row starts with BOS, and BOS stands between documents; all other tokens are those that the
    tokenizer gives for each text. Special tokens spelled out in the text (`<unk>` of WikiText)
    become a space before. The remainder is dropped.

    Args:
        tokenizer: a Hugging Face tokenizer.
        documents: texts.
        context: tokens per row, BOS included.
        bos: id of the first token of a row; the tokenizer's own unless given.
        max_tokens: stop reading documents after so many tokens; None reads them all.
        name: what messages call the text, as `text_name` returns it.

    Raises:
        ConfigError: `context` below 2, or less text than one row.
    """
    if context < 2:
        raise ConfigError(
            f"--context {context} was given, but at least BOS and a token was expected; raise it."
        )
    bos = bos_token(tokenizer) if bos is None else bos
    special = re.compile("|".join(map(re.escape, _spelled(tokenizer))))
    stream = array("q")
    texts = (special.sub(" ", text) for text in documents)
    while max_tokens is None or len(stream) < max_tokens:
        some = list(islice(texts, DOCUMENTS_PER_CALL))
        if not some:
            break
        for ids in tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]:
            stream.extend([*ids, bos])
    body = torch.from_numpy(np.array(stream[:-1][:max_tokens], dtype=np.int64))
    rows = len(body) // (context - 1)
    if rows == 0:
        held = f"{len(body)} tokens" if len(body) else "no text"
        raise ConfigError(
            f"{name} was given, but it holds {held}, and at least the {context - 1} tokens of one "
            "context were expected; add text, or lower --context."
        )
    body = body[: rows * (context - 1)].view(rows, context - 1)
    return torch.cat([torch.full((rows, 1), bos), body], dim=1)


def _spelled(tokenizer: Any) -> list[str]:
    """Returns special tokens that a text can only contain by accident, the longest first.

    Some tokenizers call a word or a mark special that stands in any text (padding by `!`, or by
    nothing at all); those are tokens of the text like all others.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    tokens = {"<unk>", *tokenizer.all_special_tokens, *(str(t) for t in added if t.special)}
    return sorted(filter(_bracketed, tokens), key=len, reverse=True)


def _bracketed(token: str) -> bool:
    """Returns whether a token is marked as no word, such as `</s>`, `[PAD]` or `<|end|>`."""
    ends = (unicodedata.category(c)[0] in "PS" for c in (token[:1], token[-1:]) if c)
    return len(token) > 2 and all(ends)


def text_name(paths: Sequence[str | Path], dataset: str = "") -> str:
    """Returns what messages call a text: the options that name it, as they are given."""
    if dataset:
        return f"--dataset {dataset}"
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"--text {paths[0]}{more}" if paths else "no --text"


def text_documents(paths: Sequence[str | Path]) -> Iterator[str]:
    """Yields the documents of UTF-8 text files, one after another; blank lines separate documents.

    Raises:
        ConfigError: a file that is missing, a folder, or no UTF-8 text; the message names it, and
            where.
    """
    for path in map(Path, paths):
        check_text_file(path)
        lines: list[str] = []
        try:
            with open_text(path) as file:
                for line in file:
                    if line.strip():
                        lines.append(line)
                    elif lines:
                        yield "".join(lines).strip("\n")
                        lines = []
        except OSError as error:
            raise ConfigError(
                f"--text {path} was given, but it cannot be read ({error.strerror}); give existing "
                "files."
            ) from error
        if lines:
            yield "".join(lines).strip("\n")


def dataset_documents(
    name: str, *, split: str = "train", max_characters: int = DATASET_CHARACTERS
) -> Iterator[str]:
    """Yields the documents of a Hugging Face dataset, `name` or `name:configuration`, streamed.

    No more are read after `max_characters` (the default is about 25 million tokens of English).

    Raises:
        ConfigError: `datasets` is not installed, the dataset cannot be read, or has no text column.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ConfigError(
            "a dataset by name needs the package `datasets`: pip install 'topk-ortho[datasets]', "
            "or give text files."
        ) from error
    path, _, configuration = name.partition(":")
    try:
        rows = load_dataset(path, configuration or None, split=split, streaming=True)
        for row in rows:
            text = row["text"] if isinstance(row.get("text"), str) else _only_text(row, name)
            yield text
            max_characters -= len(text)
            if max_characters <= 0:
                return
    except ConfigError:
        raise
    except Exception as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"the dataset {name!r} cannot be read ({cause}); {_advice(error, cause, split)}."
        ) from error


def _advice(error: Exception, cause: str, split: str) -> str:
    """Returns what to do about a dataset that cannot be read, by the reason."""
    if isinstance(error, (ConnectionError, TimeoutError)) or "offline" in cause.lower():
        return "check the network connection, or give text files with --text"
    if isinstance(error, ValueError) and "split" in cause.lower():
        return (
            f"a dataset with a split {split!r} was expected; take another dataset or "
            "configuration (`name:configuration`), or give text files with --text"
        )
    if isinstance(error, ValueError) and "config" in cause.lower():
        return "give one of its configurations as `name:configuration`"
    if isinstance(error, FileNotFoundError) or "exist" in cause.lower():
        return (
            "check the name: `name` or `name:configuration` of a Hugging Face dataset was expected"
        )
    return "expected a Hugging Face dataset as `name` or `name:configuration`"


def _only_text(row: dict[str, Any], name: str) -> str:
    texts = [value for value in row.values() if isinstance(value, str)]
    if len(texts) != 1:
        raise ConfigError(
            f"the dataset {name!r} has the columns {sorted(row)}; expected one named `text`, or a "
            "single column of strings."
        )
    return texts[0]
