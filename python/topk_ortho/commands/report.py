"""Draw runs and ablations as one HTML page, PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from topk_ortho.commands.reader import build, read
from topk_ortho.commands.reader.output import say
from topk_ortho.config.option import option


@dataclass(frozen=True, kw_only=True)
class Options:
    """Draw runs and ablations: one HTML page that needs no network, and PNG and SVG files.

    Without a path, of the newest run or ablation in runs/.
    """

    paths: tuple[Path, ...] = option((), positional=True)
    """Run folders, ablations, or folders around them."""
    out: Path | None = None
    """Folder of `index.html` and `plots/`; `report` in the first path unless given."""


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command; returns the exit code."""
    o = build(Options, read(Options, arguments, prog=prog))
    from topk_ortho.constraint.history.figures import history_figures
    from topk_ortho.report.collect import newest
    from topk_ortho.report.write import write_report

    paths = o.paths
    if not paths:
        paths = (newest(Path("runs")),)
        say(f"the newest run: {paths[0]}")
    print(f"report: {write_report(paths, o.out, history=history_figures)}")
    return 0
