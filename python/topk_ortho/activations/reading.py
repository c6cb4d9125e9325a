"""From a configuration to the contexts of its text: whole where it is small, streamed otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from topk_ortho.activations.contexts import (
    CONTEXTS_PER_BLOCK,
    ContextBlocks,
    StreamedText,
    TooShort,
    WholeText,
    nothing_left,
)
from topk_ortho.activations.documents import Document, Documents, Files
from topk_ortho.activations.hub import Dataset
from topk_ortho.activations.language_model import LanguageModel, check_contexts
from topk_ortho.activations.leaving_out import LeaveOut, special_tokens
from topk_ortho.activations.stream import TokenStream
from topk_ortho.activations.text import Tokeniser, pack, text_name
from topk_ortho.config import TrainConfig
from topk_ortho.machine.phases import phase

WHOLE_BYTES = 32 << 20
"""Bytes of text up to which it is tokenised as a whole, before anything else."""
HELD_OUT_ROWS = 1 << 17
"""Rows of a stream that are held out; they do not depend on how many are measured on."""
HELD_OUT_SHARE = 20
"""One in so many contexts of a whole text is held out."""


def documents_of(config: TrainConfig) -> tuple[Documents, bool]:
    """Returns the documents of a `language-model` configuration, and whether they are streamed.

    Raises:
        ConfigError: the first document cannot be read.
    """
    chats = bool(config.chat_roles)
    if not config.text:
        return Dataset(config.dataset, chats=chats), True
    files = Files(config.text, chats=chats)
    streamed = files.size is None or files.size > WHOLE_BYTES
    for path in config.text:  # all are looked at now, though some may be read in hours
        next(Files([path], chats=chats).read())
    return files if streamed else Files(config.text, longest=None, chats=chats), streamed


def left_out(config: TrainConfig, model: LanguageModel) -> LeaveOut:
    """Returns the positions that a configuration leaves out."""
    special = special_tokens(model.tokenizer, bos=model.bos) if config.leave_out else ()
    return LeaveOut(model.bos, special=special, positions=config.skip_positions or 0)


def contexts_of(
    config: TrainConfig,
    documents: Documents,
    model: LanguageModel,
    leave_out: LeaveOut,
    *,
    streamed: bool,
) -> ContextBlocks:
    """Returns the contexts of documents.

    Args:
        config: a `language-model` configuration.
        documents: its texts.
        model: for its tokenizer and its limits.
        leave_out: positions that are no rows.
        streamed: whether to tokenise them as they are needed; a text that turns out to be short is
            tokenised as a whole all the same.

    Raises:
        ConfigError: a text that cannot be used.
    """
    tokenise = Tokeniser(model.tokenizer, bos=model.bos, roles=config.chat_roles or ())
    if streamed:
        size = CONTEXTS_PER_BLOCK * (config.context - 1)
        stream = TokenStream(documents, tokenise, size=size)
        try:
            with phase("tokenising the held-out text"):
                return StreamedText(
                    stream,
                    context=config.context,
                    bos=model.bos,
                    leave_out=leave_out,
                    held_out=HELD_OUT_ROWS,
                    most_tokens=config.tokens,
                )
        except TooShort:
            pass
    name = text_name(config.text, config.dataset)
    most = None if config.tokens is None else config.tokens + config.tokens // (HELD_OUT_SHARE - 1)
    with phase("tokenising", total=documents.size, unit="bytes") as work:
        tokens, spoken = pack(
            tokenise,
            _each(documents),
            config.context,
            max_tokens=most,
            name=name,
            progress=work.advance,
        )
    check_contexts(model, tokens, name)
    whole = WholeText(tokens, spoken, leave_out=leave_out)
    if not (whole.read("train").kept.any() and whole.read("eval").kept.any()):
        raise nothing_left(len(tokens))
    return whole


def _each(documents: Documents) -> Iterator[Document]:
    for group, _ in documents.read():
        yield from group
