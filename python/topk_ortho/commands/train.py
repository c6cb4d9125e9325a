"""Train one run (the same as python -m topk_ortho.train)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from topk_ortho.commands.reader import RunOptions as Options
from topk_ortho.commands.reader import parse
from topk_ortho.commands.reader.training import several
from topk_ortho.config import ConfigError

__all__ = ["Options", "run"]


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command; returns the exit code."""
    options = parse(arguments, prog=prog)
    from topk_ortho.machine.hardware import keep_freed_memory
    from topk_ortho.report.summary import finish
    from topk_ortho.training import resume, train
    from topk_ortho.training.side_by_side import is_side_by_side

    keep_freed_memory()
    how: dict[str, Any] = {"stop_after": options.stop_after, "profile": options.profile}
    if options.vary or (options.resume is not None and is_side_by_side(options.resume)):
        return _side_by_side(options)
    if options.resume is not None:
        result = resume(options.resume, **how)
    else:
        result = train(options.settings, options.out, **how)
    print(finish(result["folder"]))
    return 0


def _side_by_side(options: Options) -> int:
    from topk_ortho.report.summary import finish_several
    from topk_ortho.training.folder import new_run_path
    from topk_ortho.training.side_by_side import resume_side_by_side, train_side_by_side

    if options.profile:
        raise ConfigError("--profile was given with several runs; profile one of them by itself.")
    if options.resume is not None:
        folder = options.resume
        results = resume_side_by_side(folder, stop_after=options.stop_after)
    else:
        folder = options.out or new_run_path(options.settings)
        results = train_side_by_side(several(options), folder, stop_after=options.stop_after)
    print(finish_several(folder, results))
    return 0
