"""Show the most persistent pairs of a run, and what their features are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from topk_ortho.commands.reader import build, read
from topk_ortho.commands.reader.output import say
from topk_ortho.config.option import ROWS, option, whole


@dataclass(frozen=True, kw_only=True)
class Options:
    """Show the pairs that a run chose most persistently, and what their features are."""

    run: Path = option(positional=True)
    """A finished run's folder."""
    top: int = option(20, within=whole(1, 1_000_000))
    """How many pairs."""
    contexts: int = option(3, within=whole(0, 1_000))
    """Language models: contexts shown for each feature and each pair."""
    samples: int | None = option(None, within=ROWS)
    """Held-out activations to use; as many as the run was measured on unless given."""
    json: bool = False
    """Print JSON."""


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command; returns the exit code."""
    o = build(Options, read(Options, arguments, prog=prog))
    from topk_ortho.inspect.pairs import analyse, as_text

    found = analyse(o.run, top=o.top, contexts=o.contexts, samples=o.samples)
    say(json.dumps(found.as_json(), indent=2) if o.json else as_text(found))
    return 0
