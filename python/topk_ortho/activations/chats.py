"""Chats: messages rendered with a tokenizer's template, and which tokens each role said.

A token belongs to a message where it lies within its content; the marks that the template puts
around it belong to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from topk_ortho.config import ConfigError


class Chats:
    """Chats to tokens.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        roles: those whose tokens are trained on.
        clean: what happens to a text before it is rendered.

    Raises:
        ConfigError: the tokenizer has no chat template.
    """

    def __init__(
        self, tokenizer: Any, roles: Sequence[str], *, clean: Callable[[str], str]
    ) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                "--chat-roles was given, but the model's tokenizer has no chat template, which "
                "renders messages; take a model that was trained on chats, or leave it out."
            )
        self._tokenizer, self._roles, self._clean = tokenizer, set(roles), clean

    def tokens(
        self, chats: Sequence[Sequence[Mapping[str, Any]]], bos: int
    ) -> tuple[list[int], list[bool]]:
        """Returns the tokens of chats, BOS behind each, and whether one of the roles said them."""
        ids: list[int] = []
        spoken: list[bool] = []
        for messages in filter(None, chats):
            said = [m | {"content": self._clean(m["content"])} for m in map(dict, messages)]
            text = self._rendered(said)
            found = self._tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            spans = list(self._spans(said, text))
            start = int(bool(found["input_ids"]) and found["input_ids"][0] == bos)
            ids += [*found["input_ids"][start:], bos]
            spoken += [_within(at, spans) for at in found["offset_mapping"][start:]]
            spoken.append(False)
        return ids, spoken

    def _rendered(self, messages: Sequence[Mapping[str, Any]]) -> str:
        try:
            return self._tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception as error:
            roles = ", ".join(m["role"] for m in messages)
            raise ConfigError(
                f"the model's chat template cannot render messages of {roles} ({error}); leave "
                "such chats out."
            ) from error

    def _spans(self, messages: Sequence[Mapping[str, Any]], text: str) -> Iterator[tuple[int, int]]:
        """Yields where the contents of the roles lie in the rendered text."""
        at = 0
        for message in messages:
            content = message["content"].strip()
            start = text.find(content, at)
            if start < 0:
                continue  # the template left it out, or rewrote it
            at = start + len(content)
            if message["role"] in self._roles and content:
                yield start, at


def _within(place: tuple[int, int], spans: Sequence[tuple[int, int]]) -> bool:
    return any(start <= place[0] and place[1] <= stop for start, stop in spans)
