"""`topk-ortho results`: run what the results page states, and write its tables.

The parts lie side by side in one folder and share their runs, so that an arm that several of them
need is computed once. Started again, the same command goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from topk_ortho.config import ConfigError
from topk_ortho.experiments.ablation import Request, run_ablation, said, stored_plan
from topk_ortho.experiments.results.crowding import crowding
from topk_ortho.experiments.results.parts import TOPK, Material, Part, parts
from topk_ortho.report.canvas import write_whole
from topk_ortho.report.collect import collect
from topk_ortho.report.markdown import comparison_markdown

SHARED = ("runs", "activations", "logs", ".locks")
"""Folders of an ablation that all parts have in common."""
BEGIN, END = "<!-- {}: begin -->", "<!-- {}: end -->"


def run_results(
    material: Material, *, out: Path, jobs: int, page: Path | None, only: Sequence[str] = ()
) -> int:
    """Compute what is missing, part by part, and write the page; 1 where a run failed.

    Raises:
        ConfigError: a part of no such name, or one that needs a language model without any.
        Stopped: interrupted; the same command goes on.
    """
    failed = 0
    chosen = _chosen(only, material)
    for part in chosen:
        said(f"{part.name}: {part.question}")
        request = part.request(material, root=out, jobs=jobs)
        share(request)
        failed |= run_ablation(request)
        if page is not None:
            write(page, part.name, markdown(out / part.name))
            if part.name == TOPK:
                write(page, "crowding", crowding(out / part.name))
    return failed


def _chosen(only: Sequence[str], material: Material) -> list[Part]:
    every = parts()
    for name in only:
        if name not in every:
            raise ConfigError(
                f"--only {name} was given, but one of {', '.join(every)} was expected."
            )
    found = [part for name, part in every.items() if not only or name in only]
    needing = [p.name for p in found if p.base(material).activations == "language-model"]
    if needing and not (material.model and material.text):
        raise ConfigError(
            f"{', '.join(needing)} need a language model, but --model or --text was not given; "
            "give both, or the other parts with --only."
        )
    return found


def share(request: Request) -> None:
    """Store the plan of a part and have its runs lie beside it, common to all parts."""
    stored_plan(request)
    for name in SHARED:
        common, here = request.out.parent / name, request.out / name
        common.mkdir(parents=True, exist_ok=True)
        if here.is_symlink():
            continue
        if here.is_dir():  # the lock of the plan alone
            for path in here.iterdir():
                path.replace(common / path.name)
            here.rmdir()
        here.symlink_to(Path("..") / name)


def markdown(part: Path) -> str:
    """What the page says of a part."""
    (comparison,) = collect([part])
    return comparison_markdown(comparison)


def write(page: Path, name: str, text: str) -> None:
    """Put a text between the marks of a name; a page without them is left as it is.

    Raises:
        ConfigError: no such page.
    """
    if not page.is_file():
        raise ConfigError(
            f"--page {page} was given, but a file with marks such as {BEGIN.format(name)} was "
            "expected; check the path."
        )
    whole = page.read_text(encoding="utf-8")
    begin, end = BEGIN.format(name), END.format(name)
    if begin not in whole or end not in whole:
        said(f"{page} has no marks {begin} and {end}; {name} is left out of it")
        return
    head, tail = whole.split(begin, 1)[0], whole.split(end, 1)[1]
    write_whole(page, f"{head}{begin}\n\n{text}\n\n{end}{tail}".encode())
