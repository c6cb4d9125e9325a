"""Train one run (the same as python -m topk_ortho.train)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from topk_ortho.commands.reader import RunOptions as Options
from topk_ortho.commands.reader import parse

__all__ = ["Options", "run"]


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command; returns the exit code."""
    options = parse(arguments, prog=prog)
    from topk_ortho.machine.hardware import keep_freed_memory
    from topk_ortho.report.summary import finish
    from topk_ortho.training import resume, train

    keep_freed_memory()
    how: dict[str, Any] = {"stop_after": options.stop_after, "profile": options.profile}
    if options.resume is not None:
        result = resume(options.resume, **how)
    else:
        result = train(options.settings, options.out, **how)
    print(finish(result["folder"]))
    return 0
