"""Check memory, disk and device for a run; takes train's options."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from topk_ortho.commands.reader import Training, build, read, settings_of
from topk_ortho.config import ConfigError
from topk_ortho.config.option import option, when, whole
from topk_ortho.config.rules import check_effect

GPUS = ("a100", "h100", "h200", "l40s", "rtx-4090")
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
    gpu: Literal["", "a100", "h100", "h200", "l40s", "rtx-4090"] = ""
    """Predict memory and time on such a GPU, which need not be here; opens neither data nor
    model."""
    d_in: int | None = option(None, within=whole(1, 2**20), used=when("gpu", *GPUS))
    """Width of the activations, with --gpu."""


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
    if o.gpu:
        return _elsewhere(o)
    from topk_ortho.machine.doctor import examine
    from topk_ortho.training.folder import RunFolder

    config = o.settings if o.resume is None else RunFolder.open(o.resume)[1]
    report, fits = examine(config, o.out or o.resume)
    print(report)
    return 0 if fits else 1


def _elsewhere(o: Options) -> int:
    from topk_ortho.machine.elsewhere import predict
    from topk_ortho.training.folder import RunFolder

    if o.d_in is None:
        raise ConfigError(
            f"--gpu {o.gpu} was given, but what the activations are as wide as is not known, since "
            "nothing is opened; add --d-in, such as 2304 for Gemma 2 2B."
        )
    config = o.settings if o.resume is None else RunFolder.open(o.resume)[1]
    report, fits = predict(config, d_in=o.d_in, gpu=o.gpu)
    print(report)
    return 0 if fits else 1
