"""Check memory, disk and device for a run; takes train's options."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from topk_ortho.commands.reader import Training, build, read, settings_of
from topk_ortho.config import ConfigError
from topk_ortho.config.rules import check_effect

REFUSED = {
    "stop-after": "nothing is trained here",
    "profile": "nothing is trained here; topk-ortho train --profile watches steps",
}


@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """Report what a run would need and whether this machine has it; nothing is trained."""

    out: Path | None = None
    """Run folder, whose disk is checked."""
    resume: Path | None = None
    """Check this run folder, in place of the other options."""


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command; returns the exit code, 1 where the run does not fit."""
    given = read(Options, arguments, prog=prog, refused=REFUSED)
    o = build(Options, given)
    if o.resume is not None and (others := sorted(given.values.keys() - {"resume"})):
        raise ConfigError(
            f"--resume was given together with --{others[0]}, but a run resumes with its own "
            "configuration; leave the option out."
        )
    asked = settings_of(given)
    check_effect(asked.given, asked.settings)
    o = dataclasses.replace(o, settings=asked.settings)
    from topk_ortho.machine.doctor import examine
    from topk_ortho.training.folder import RunFolder

    config = o.settings if o.resume is None else RunFolder.open(o.resume)[1]
    report, fits = examine(config, o.out or o.resume)
    print(report)
    return 0 if fits else 1
