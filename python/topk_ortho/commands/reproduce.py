"""Train a run again and compare every metric bit for bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from topk_ortho.commands.reader import build, read
from topk_ortho.commands.reader.output import say
from topk_ortho.config.option import option


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a finished run again and check whether every metric is the same, bit for bit."""

    run: Path = option(positional=True)
    """A finished run's folder."""
    out: Path | None = None
    """Folder of the second run; without it, that run is deleted afterwards."""
    json: bool = False
    """Print JSON."""


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command; returns the exit code, 1 where something differs."""
    o = build(Options, read(Options, arguments, prog=prog))
    from topk_ortho.inspect.reproduce import as_text, reproduce

    found = reproduce(o.run, out=o.out)
    say(json.dumps(found.as_json(), indent=2) if o.json else as_text(found))
    return 0 if found.equal else 1
