"""Upload a trained SAE to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from topk_ortho.commands.reader import build, read
from topk_ortho.config.option import option


@dataclass(frozen=True, kw_only=True)
class Options:
    """Upload a trained SAE to the Hugging Face hub; a repository that is new is created."""

    sae: Path = option(positional=True)
    """A run folder, or a folder of SAELens, dictionary_learning or sparsify."""
    repo: str = option(positional=True)
    """OWNER/NAME."""
    subfolder: str = ""
    """Folder inside the repository; its root unless given."""
    public: bool = False
    """Make a new repository public; it is private otherwise."""


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command; returns the exit code."""
    o = build(Options, read(Options, arguments, prog=prog))
    from topk_ortho.integrations.hub import push

    print(f"pushed: {push(o.sae, o.repo, subfolder=o.subfolder, private=not o.public)}")
    return 0
