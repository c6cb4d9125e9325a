"""Train one run (the same as python -m topk_ortho.train)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from topk_ortho.commands.reader import RunOptions as Options
from topk_ortho.commands.reader import parse
from topk_ortho.commands.reader.training import several
from topk_ortho.config import ConfigError
from topk_ortho.distributed.launcher import is_first, launched

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
    if options.timeout is not None:
        if launched().size == 1:
            raise ConfigError(
                f"--timeout {options.timeout} was given with one process, which waits for no "
                "other; leave it out, or start several with torchrun."
            )
        how["timeout"] = options.timeout
    if not is_first():  # process 0 says it for all
        warnings.simplefilter("ignore")
    if options.vary or (options.resume is not None and is_side_by_side(options.resume)):
        return _side_by_side(options)
    if options.resume is not None:
        result = resume(options.resume, **how)
    else:
        result = train(options.settings, options.out, **how)
    if is_first():
        print(finish(result["folder"]))
    return 0


def _side_by_side(options: Options) -> int:
    from topk_ortho.report.summary import finish_several
    from topk_ortho.training.folder import new_run_path
    from topk_ortho.training.side_by_side import resume_side_by_side, train_side_by_side

    if (size := launched().size) > 1:
        raise ConfigError(
            f"several runs side by side were asked for with {size} processes, but each run would "
            "need all of them; start one run with torchrun, or leave torchrun out."
        )
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
