"""Pages that mkdocs makes while it builds: the commands, and the public names of the package.

The commands' options come from their definitions, the names' pages from their docstrings. Links to
files outside `docs/` become the files' names, since the site does not have those files.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from mkdocs.structure.files import File, Files

import topk_ortho
from topk_ortho import cli
from topk_ortho.commands.reader.help import help_text

_OUTSIDE = re.compile(r"\[((?:[^\]\[]|\[[^\]]*\])*)\]\(\.\./(?:[^)\s]*)\)")


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the generated pages."""
    files.append(File.generated(config, "cli.md", content=commands()))
    files.append(File.generated(config, "api.md", content=names()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Takes links to files outside the site off their words."""
    return _OUTSIDE.sub(r"\1", markdown)


def commands() -> str:
    """Returns the page of all commands and their options."""
    parts = [
        "# Commands",
        "`python -m topk_ortho.train` is `topk-ortho train`. Hyphens and underscores are the same "
        "in names and values. Options of a table are `--table.option`; in TOML they stand under "
        "`[table]`.",
    ]
    for name in cli.names():
        module = import_module(f"topk_ortho.commands.{name}")
        text = help_text(module.Options, prog=f"topk-ortho {name.replace('_', '-')}")
        line = (module.__doc__ or "").strip().splitlines()[0]
        parts += [f"## {name.replace('_', '-')}", line, f"```text\n{text}\n```"]
    return "\n\n".join(parts) + "\n"


def names() -> str:
    """Returns the page of the names that `topk_ortho` exports, each from its docstring."""
    parts = ["# Python", "Every name is imported from `topk_ortho`."]
    for name in sorted(topk_ortho._HOMES):
        found = getattr(topk_ortho, name)
        if name == "train":  # the module of that name is callable, and calls the function
            name, found = "train_sae", topk_ortho.train_sae
        if f"::: {found.__module__}.{found.__name__}" not in parts:
            parts.append(f"::: {found.__module__}.{found.__name__}")
    return "\n\n".join(parts) + "\n"
