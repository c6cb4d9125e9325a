"""Text in, tokens out: documents tokenised one after another and cut into rows of equal length.

Refused: less text than one context.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from topk_ortho.activations.chats import Chats
from topk_ortho.activations.documents import Document, Files
from topk_ortho.config import ConfigError

DOCUMENTS_PER_CALL = 256


class Tokens(NamedTuple):
    """A stretch of a stream of tokens.

    Attributes:
        ids: `[n]` int64.
        spoken: `[n]` bool, whether a token was said by one of the roles that are trained on; None
            where all are.
    """

    ids: np.ndarray
    spoken: np.ndarray | None = None

    def part(self, start: int, stop: int) -> Tokens:
        """Returns tokens `start` to `stop`."""
        spoken = None if self.spoken is None else self.spoken[start:stop]
        return Tokens(self.ids[start:stop], spoken)


def joined(parts: Sequence[Tokens]) -> Tokens:
    """Returns stretches, at least one, put together."""
    spoken = [part.spoken for part in parts if part.spoken is not None]
    ids = np.concatenate([part.ids for part in parts])
    return Tokens(ids, np.concatenate(spoken) if spoken else None)


class Tokeniser:
    """Documents to tokens, with BOS behind each of them.

    Special tokens spelled out in a text (`<unk>` of WikiText) become a space before.

    Args:
        tokenizer: a Hugging Face tokenizer.
        bos: id of the separator; the tokenizer's own unless given.
        roles: of chats, the roles that are trained on.
    """

    def __init__(
        self, tokenizer: Any, *, bos: int | None = None, roles: Sequence[str] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self.bos = bos_token(tokenizer) if bos is None else bos
        self._special = re.compile("|".join(map(re.escape, _spelled(tokenizer))))
        self._chats = Chats(tokenizer, roles, clean=self._clean) if roles else None

    def __call__(self, documents: Sequence[Document]) -> Tokens:
        """Returns the tokens of some documents."""
        if self._chats is not None:
            ids, spoken = self._chats.tokens([d.messages or [] for d in documents], self.bos)
            return Tokens(np.array(ids, dtype=np.int64), np.array(spoken, dtype=bool))
        stream = array("q")
        if documents:
            texts = [self._clean(document.text) for document in documents]
            found = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            for document, ids in zip(documents, found, strict=True):
                stream.extend([*ids, self.bos] if document.ends else ids)
        return Tokens(np.array(stream, dtype=np.int64))

    def _clean(self, text: str) -> str:
        return self._special.sub(" ", text)


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
    tokenise = Tokeniser(tokenizer, bos=bos)
    texts = map(Document, documents)
    return pack(tokenise, texts, context, max_tokens=max_tokens, name=name)[0]


def pack(
    tokenise: Tokeniser,
    documents: Iterable[Document],
    context: int,
    *,
    max_tokens: int | None = None,
    name: str = "the text",
    progress: Callable[[int], object] = lambda size: None,
) -> tuple[Tensor, Tensor | None]:
    """Returns `pack_contexts` of documents, and `[n, context]` bool, which tokens were said by the
    roles that are trained on; None where all are.

    Args:
        tokenise: documents to tokens.
        documents: read as they are needed.
        context: tokens per row, BOS included.
        max_tokens: stop reading documents after so many tokens; None reads them all.
        name: what messages call the text, as `text_name` returns it.
        progress: called with the bytes of text that were tokenised.

    Raises:
        ConfigError: `context` below 2, or less text than one row.
    """
    if context < 2:
        raise ConfigError(
            f"--context {context} was given, but at least BOS and a token was expected; raise it."
        )
    documents, parts, length = iter(documents), [tokenise(())], 0
    while max_tokens is None or length < max_tokens:
        some = list(islice(documents, DOCUMENTS_PER_CALL))
        if not some:
            break
        parts.append(tokenise(some))
        length += len(parts[-1].ids)
        progress(sum(len(document.text.encode()) for document in some))
    stream = joined(parts)
    body = stream.part(0, len(stream.ids) - 1).part(0, max_tokens or length)
    rows = len(body.ids) // (context - 1)
    if rows == 0:
        held = f"{len(body.ids)} tokens" if len(body.ids) else "no text"
        raise ConfigError(
            f"{name} was given, but it holds {held}, and at least the {context - 1} tokens of one "
            "context were expected; add text, or lower --context."
        )
    return cut(body.part(0, rows * (context - 1)), context, bos=tokenise.bos)


def cut(tokens: Tokens, context: int, *, bos: int) -> tuple[Tensor, Tensor | None]:
    """Returns rows `[n, context]` that start with BOS, and which of their tokens were spoken.

    Args:
        tokens: `n * (context - 1)` of them.
        context: tokens per row, BOS included.
        bos: the first token of each row.
    """
    body = torch.from_numpy(tokens.ids).view(-1, context - 1)
    rows = torch.cat([torch.full((len(body), 1), bos), body], dim=1)
    if tokens.spoken is None:
        return rows, None
    spoken = torch.from_numpy(tokens.spoken).view(-1, context - 1)
    return rows, torch.cat([torch.zeros(len(body), 1, dtype=torch.bool), spoken], dim=1)


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
    """Yields the documents of files, one after another: of plain text, where blank lines separate
    them, of JSON lines, Parquet and Arrow.

    Raises:
        ConfigError: a file that is missing or cannot be used; the message names it, and where.
    """
    for documents, _ in Files(paths, longest=None).read():
        yield from (document.text for document in documents)
