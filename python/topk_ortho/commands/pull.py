"""Download a trained SAE from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from topk_ortho.commands.reader import build, read
from topk_ortho.config.option import option


@dataclass(frozen=True, kw_only=True)
class Options:
    """Download a trained SAE from the Hugging Face hub, whatever its layout."""

    repo: str = option(positional=True)
    """OWNER/NAME."""
    out: Path = option(positional=True)
    """Folder of the SAE; it must not exist, or hold an SAE of the same layout."""
    subfolder: str = ""
    """Folder inside the repository; its root unless given."""
    revision: str | None = None
    """Branch, tag or commit; the main branch unless given."""


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command; returns the exit code."""
    o = build(Options, read(Options, arguments, prog=prog))
    from topk_ortho.integrations.hub import pull

    layout = pull(o.repo, o.out, subfolder=o.subfolder, revision=o.revision)
    print(f"pulled: {o.out} ({layout})")
    return 0
