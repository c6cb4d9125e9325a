"""`write_report`: folders of runs become one HTML page, and the same drawings as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from topk_ortho.checkpoint.atomic import replace_file
from topk_ortho.config import ConfigError
from topk_ortho.report.arms import Comparison
from topk_ortho.report.collect import collect
from topk_ortho.report.page import GENERATOR, Section, render, sections
from topk_ortho.report.stability import Reader
from topk_ortho.report.typeset import listed

LARGEST = 2_000_000
"""Bytes of the page."""

_NAMED = 4  # comparisons in the title


def write_report(
    paths: Sequence[Path], out: Path | None = None, *, history: Reader = lambda folder: None
) -> Path:
    """Draw a report of runs, `make bars` folders and ablations.

    Args:
        paths: run folders, folders of `make bars`, ablations, or folders around them.
        out: where `index.html` and `plots/` go; `report` in the first of the folders unless given.
            An existing report is replaced.
        history: reads the pair history of a run folder (`constraint/history/figures.py`); without
            it the page has no metrics of single pairs.

    Returns:
        The page.

    Raises:
        ConfigError: no run in one of the folders, or a place that cannot be written.
    """
    comparisons = collect(paths)
    folder = Path(out) if out is not None else Path(paths[0]) / "report"
    page = folder / "index.html"
    _refuse_foreign(page)
    found = sections(comparisons, history=history)
    html = _small_enough(found, title=_title(comparisons))
    try:
        (folder / "plots").mkdir(parents=True, exist_ok=True)
        for section in found:
            for block in section.blocks:
                for drawing in block.drawings:
                    drawing.save(folder / "plots")
        replace_file(page, html.encode())
        return page
    except OSError as error:
        raise ConfigError(
            f"--out {folder} was given, but it cannot be written ({error.strerror}); "
            "take a folder that can."
        ) from None


def _title(comparisons: Sequence[Comparison]) -> str:
    names = [comparison.title for comparison in comparisons]
    more = len(names) - _NAMED
    return f"Runs on {listed(names[:_NAMED] + ([f'{more} more'] if more > 0 else []))}"


def _small_enough(found: Sequence[Section], *, title: str) -> str:
    """The page; where it would be too large, drawings of the last sections are left to `plots/`."""
    shown = list(found)
    html = render(shown, title=title)
    for n in reversed(range(len(shown))):
        if len(html.encode()) <= LARGEST:
            break
        if any(block.drawings for block in shown[n].blocks):
            shown[n] = shown[n].without_drawings()
            html = render(shown, title=title)
    return html


def _refuse_foreign(page: Path) -> None:
    if page.exists() and f'content="{GENERATOR}"' not in page.read_text("utf-8", "replace")[:4000]:
        raise ConfigError(
            f"{page} exists and is not a report, so it is not overwritten; "
            "take another folder with --out."
        )
