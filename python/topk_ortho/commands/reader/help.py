"""`--help`: every option of a command with its type, its default and its docstring.

Wrapped to the terminal, however narrow; time and memory are linear in the text.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import shutil
import textwrap
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from topk_ortho.commands.reader.options import Option, options_of

LEAST, MOST = 20, 100
"""Columns that a text is wrapped to, at least and at most."""
KINDS = {int: "INT", float: "FLOAT", Path: "PATH", str: "TEXT"}


def help_text(cls: type, *, prog: str) -> str:
    """Returns the text that explains a command's options.

    Args:
        cls: the dataclass of the options; its docstring says what the command does.
        prog: how the command is called.
    """
    width = min(max(shutil.get_terminal_size().columns, LEAST), MOST)
    options = options_of(cls)
    places = [o for o in options.values() if o.positional]
    usage = " ".join([prog, *(_place(o) for o in places), "[OPTIONS]"])
    out = [_wrapped(f"usage: {usage}", width, indent=0), ""]
    for paragraph in inspect.cleandoc(cls.__doc__ or "").split("\n\n"):
        out += [_wrapped(" ".join(paragraph.split()), width, indent=0), ""]
    documents = {owner: _docstrings(owner) for owner in {o.owner for o in options.values()}}
    section = None
    named = [o for o in options.values() if not o.positional]
    for option in (*places, *sorted(named, key=lambda o: o.owner is not cls)):
        name = "arguments" if option.positional else option.name.rpartition(".")[0] or "options"
        if name != section:
            out += ([""] if section else []) + [f"{name}:"]
            section = name
        field = option.name.rpartition(".")[2].replace("-", "_")
        out.append(_wrapped(_head(option), width, indent=2))
        text = documents[option.owner].get(field, "")
        if _many_choices(option):
            text += f" One of {', '.join(option.choices)}."
        out.append(_wrapped(text, width, indent=6))
    return "\n".join(out)


def _wrapped(text: str, width: int, *, indent: int) -> str:
    margin = " " * indent
    return textwrap.fill(
        text, width, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False
    )


def _place(option: Option) -> str:
    shown = f"{option.shown}..." if option.many else option.shown
    return shown if option.default is MISSING else f"[{shown}]"


def _head(option: Option) -> str:
    if option.positional:
        return _place(option)
    if option.flag:
        names = [f"--{option.name}", f"--{_negated(option.name)}"]
        return ", ".join(names[::-1] if option.default else names)
    choices = "NAME" if _many_choices(option) else "|".join(option.choices)
    kind = choices or KINDS.get(option.item, "TEXT")
    many = "..." if option.many else f" {kind}" * (option.count - 1)
    return f"--{option.name} {kind}{many}{_default(option.default)}"


def _many_choices(option: Option) -> bool:
    return len(option.choices) > 5


def _negated(name: str) -> str:
    head, dot, tail = name.rpartition(".")
    return f"{head}{dot}no-{tail}"


def _default(value: Any) -> str:
    if value is MISSING:
        return " (required)"
    if value is None or value == "" or value == ():
        return ""
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
    return f" (default: {shown})"


def _docstrings(cls: type) -> dict[str, str]:
    """Returns the string below each field of a dataclass and of those it derives from."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                value = below.value if isinstance(below, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    found[statement.target.id] = " ".join(value.value.split())
    return found
