"""Classes of tokens from a file: names, members, edges, and where in a text they are on.

A member is a sequence of token ids; it is on at its last token, where the model has read all of
it. Refused: names that do not exist, strings that the tokenizer cannot spell, circular edges.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topk_ortho.config import ConfigError
from topk_ortho.config.toml import nearest

Member = tuple[int, ...]
ARROW = " > "


@dataclass(frozen=True)
class TokenClasses:
    """Classes of tokens with their members and edges.

    Attributes:
        names: of the classes, in the order of the file.
        members: for each class its sequences of token ids; a parent has its children's as well.
        edges: `(parent, child)` indices.
    """

    names: tuple[str, ...]
    members: tuple[frozenset[Member], ...]
    edges: tuple[tuple[int, int], ...]


def read_classes(path: Path, tokenizer: Any, *, d_vocab: int) -> TokenClasses:
    """Returns the classes of a TOML or JSON file.

    Args:
        path: has `edges`, a list of "parent > child", and `classes`, a table of name to a list of
            strings and token ids.
        tokenizer: a Hugging Face tokenizer. A string stands for every token with that text, with
            or without a blank before it; one that begins with a blank only for that. Where there
            is no such token, it stands for the sequence of tokens that spells it.
        d_vocab: number of token ids.

    Raises:
        ConfigError: a file, name, string or id that cannot be used.
    """
    table = _table(path)
    spell = _Speller(tokenizer, d_vocab=d_vocab, where=str(path))
    own = {name: spell.members(name, given) for name, given in table["classes"].items()}
    names = tuple(own)
    edges = tuple(_edge(text, names, str(path)) for text in table["edges"])
    if len(set(edges)) < len(edges):
        raise ConfigError(f"{path} names an edge twice; name each once.")
    members = tuple(frozenset(_with_children(i, names, own, edges)) for i in range(len(names)))
    for name, found in zip(names, members, strict=True):
        if not found:
            raise ConfigError(f"{path}: the class {name!r} has no member; list strings or ids.")
    return TokenClasses(names, members, edges)


def on(contexts: Tensor, members: Iterable[Member]) -> Tensor:
    """Returns where a class is on, `[n, context]` bool: at the last token of each member.

    Args:
        contexts: `[n, context]` int64; a member does not reach across rows.
        members: sequences of token ids.
    """
    found = torch.zeros(contexts.shape, dtype=torch.bool)
    by_length: dict[int, list[Member]] = {}
    for member in sorted(members):
        by_length.setdefault(len(member), []).append(member)
    for length, same in by_length.items():
        if length <= contexts.shape[1]:
            windows = contexts.unfold(1, length, 1)
            found[:, length - 1 :] |= _among(windows, torch.tensor(same))
    return found


def _among(windows: Tensor, members: Tensor) -> Tensor:
    """`[n, places]` bool, whether each window `[n, places, length]` is a row of `members`.

    Token by token: what is left of a window is the number of a beginning that some member has. So
    the work is that of the text, however many members there are.
    """
    size = 1 + int(max(windows.max(), members.max()))
    if members.shape[1] == 1:
        is_member = torch.zeros(size, dtype=torch.bool)
        is_member[members[:, 0]] = True
        return is_member[windows[..., 0]]
    begun = torch.zeros(windows.shape[:2], dtype=torch.int64)
    own = torch.zeros(len(members), dtype=torch.int64)
    for at in range(members.shape[1]):
        keys, own = (own * size + members[:, at]).unique(return_inverse=True)
        here = begun * size + windows[..., at]
        number = torch.searchsorted(keys, here).clamp_(max=len(keys) - 1)
        begun = torch.where(keys[number] == here, number, -1)
    return begun >= 0


class _Speller:
    """The tokens that a string of the file stands for."""

    def __init__(self, tokenizer: Any, *, d_vocab: int, where: str) -> None:
        self._tokenizer, self._d_vocab, self._where = tokenizer, d_vocab, where
        self._tokens: dict[str, set[Member]] = {}
        # A token decoded alone may lose its leading blank.
        before = tokenizer(".", add_special_tokens=False)["input_ids"]
        start = len(tokenizer.decode(before))
        for token in range(min(d_vocab, len(tokenizer))):
            text = tokenizer.decode([*before, token], clean_up_tokenization_spaces=False)[start:]
            self._tokens.setdefault(text, set()).add((token,))

    def members(self, name: str, given: Any) -> set[Member]:
        """Returns the members that a list of the file names."""
        if not isinstance(given, list):
            raise ConfigError(
                f"{self._where}: the class {name!r} is {given!r}; expected a list of strings and "
                "token ids."
            )
        return set().union(*(self._of(name, entry) for entry in given))

    def _of(self, name: str, entry: Any) -> set[Member]:
        if isinstance(entry, int) and not isinstance(entry, bool):
            if not 0 <= entry < self._d_vocab:
                raise ConfigError(
                    f"{self._where}: the class {name!r} has the token id {entry}; expected 0 to "
                    f"{self._d_vocab - 1}."
                )
            return {(entry,)}
        if not isinstance(entry, str) or not entry.strip():
            raise ConfigError(
                f"{self._where}: the class {name!r} has the entry {entry!r}; expected a string "
                "that is not blank, or a token id."
            )
        return self._spelled(entry.rstrip())

    def _spelled(self, text: str) -> set[Member]:
        """The tokens of this text, and those of it after a blank unless it begins with one; where
        there is no such token, the sequences that the tokenizer makes of it."""
        forms = [text] if text.startswith(" ") else [text, f" {text}"]
        found = set().union(*(self._tokens.get(form, set()) for form in forms))
        if found:
            return found
        for form in forms:
            ids = self._tokenizer(form, add_special_tokens=False)["input_ids"]
            if ids and self._tokenizer.unk_token_id not in ids:
                found.add(tuple(ids))
        if not found:
            raise ConfigError(
                f"{self._where}: the tokenizer cannot spell {text!r}; leave it out or give ids."
            )
        return found


def _table(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--classes {path} was given, but it cannot be read ({error}); expected TOML, or JSON "
            "in a file named .json."
        ) from None
    if not isinstance(table, dict) or set(table) != {"classes", "edges"}:
        found = sorted(table) if isinstance(table, dict) else type(table).__name__
        raise ConfigError(
            f'{path} has {found}; expected `edges`, a list of "parent > child", and `classes`, a '
            "table of lists (in TOML `edges` comes first)."
        )
    if not isinstance(table["classes"], dict) or not isinstance(table["edges"], list):
        raise ConfigError(f"{path}: expected `edges` to be a list and `classes` a table.")
    if not table["edges"]:
        raise ConfigError(f'{path} has no edge; expected at least one "parent > child".')
    return table


def _edge(text: Any, names: tuple[str, ...], where: str) -> tuple[int, int]:
    ends = text.split(ARROW) if isinstance(text, str) else ()
    if len(ends) != 2:
        raise ConfigError(f'{where} has the edge {text!r}; expected "parent > child".')
    for name in ends:
        if name not in names:
            raise ConfigError(
                f"{where} has the edge {text!r}, but no class {name!r}{nearest(name, list(names))}."
            )
    return names.index(ends[0]), names.index(ends[1])


def _with_children(
    index: int,
    names: tuple[str, ...],
    own: dict[str, set[Member]],
    edges: tuple[tuple[int, int], ...],
    above: tuple[int, ...] = (),
) -> set[Member]:
    if index in above:
        circle = ARROW.join(names[i] for i in (*above[above.index(index) :], index))
        raise ConfigError(f"the edges run in a circle ({circle}); leave one of them out.")
    found = set(own[names[index]])
    for parent, child in edges:
        if parent == index:
            found |= _with_children(child, names, own, edges, (*above, index))
    return found
