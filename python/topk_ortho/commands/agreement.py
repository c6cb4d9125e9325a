"""Compare the dictionaries of different seeds (PW-MCC)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from topk_ortho.commands.reader import build, read
from topk_ortho.commands.reader.output import check_out, say, write_json
from topk_ortho.config.option import option, unless, whole


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare the dictionaries of different seeds: how far they hold the same directions.

    Takes one ablation, and compares the seeds of each arm; or two or more folders of SAEs or runs.
    Prints the mean over pairs of PW-MCC and of the nearest row's cosine, beside what chance gives.
    """

    paths: tuple[Path, ...] = option(positional=True)
    """One ablation, or folders of SAEs or runs."""
    draws: int = option(3, within=whole(0, 1000))
    """Comparisons by chance, per arm."""
    null: Literal["rotation", "reflection"] = option("rotation", used=unless("draws", 0))
    """Chance: a dictionary turned by any rotation; or each principal axis of the rows kept or
    reversed, which keeps the subspace that they lie in and is the stricter."""
    allow_pickle: bool = False
    """Open SAEs of dictionary_learning, which are pickles; only tensors are read from them."""
    json: bool = False
    """Print JSON in place of the table."""
    out: Path | None = None
    """Write every number to this JSON file."""


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command; returns the exit code."""
    o = build(Options, read(Options, arguments, prog=prog))
    check_out(o.out)
    from topk_ortho.studies.agreement import arms_of, as_json, as_text, measure

    arms = arms_of(o.paths)
    found = measure(arms, draws=o.draws, null=o.null, allow_pickle=o.allow_pickle)
    record = as_json(found, arms, null=o.null)
    write_json(o.out, record)
    say(json.dumps(record, indent=2) if o.json else as_text(found, null=o.null))
    return 0
