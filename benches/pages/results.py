"""`make results`: run what docs/results.md states, and write its tables.

The parts lie side by side in one folder and share their runs, so that an arm that several of them
need is computed once. Started again, the same command continues.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crowding import crowding
from parts import TOPK, Material, parts
from settings import setting

from topk_ortho.checkpoint.atomic import replace_file
from topk_ortho.commands.reader import build, read
from topk_ortho.commands.reader.output import guarded
from topk_ortho.config import ConfigError
from topk_ortho.config.option import option
from topk_ortho.config.train import A_CORE_OR_MORE
from topk_ortho.report.collect import collect
from topk_ortho.report.markdown import comparison_markdown
from topk_ortho.studies.ablation import run_ablation, said
from topk_ortho.studies.calibrate import run_calibration

SHARED = ("runs", "activations", "logs", ".locks")
"""Folders of an ablation that all parts have in common."""
BEGIN, END = "<!-- {}: begin -->", "<!-- {}: end -->"
CALIBRATE = "calibrate"
"""The one part that is no ablation; it comes last."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Run everything that docs/results.md states, and rewrite its tables.

    Interrupted at any point, the same command continues and computes nothing twice.
    """

    out: Path = Path("runs/results")
    """Folder of the parts and of the runs that they share."""
    model: str = ""
    """Language model of the parts that need one, a name or a local folder."""
    text: tuple[Path, ...] = ()
    """Its text files."""
    hook: str = "blocks.3.hook_resid_post"
    """Its hook point."""
    jobs: int = option(1, within=A_CORE_OR_MORE)
    """Runs at a time, each in its own process."""
    only: tuple[str, ...] = ()
    """Some of the parts; all unless given."""
    page: Path | None = None
    """The page whose tables are written, part by part."""


def main(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    o = build(Options, read(Options, arguments, prog="results"))
    return run_results(
        Material(o.model, o.text, o.hook), out=o.out, jobs=o.jobs, page=o.page, only=o.only
    )


def run_results(
    material: Material, *, out: Path, jobs: int, page: Path | None, only: Sequence[str] = ()
) -> int:
    """Compute what is missing, part by part, and write the page; 1 where a run failed.

    Raises:
        ConfigError: a part of no such name, or one that needs a language model without any.
        Interrupted: stopped by a signal; the same command resumes.
    """
    every = parts()
    names = _chosen(only, material)
    failed = 0
    for name in names:
        folder = share(out, name)
        texts = {}
        if name == CALIBRATE:
            code, texts[name] = _calibrated(material, folder, jobs=jobs)
        else:
            said(f"{name}: {every[name].question}")
            code = run_ablation(every[name].request(material, root=out, jobs=jobs))
            texts[name] = markdown(folder)
            if name == TOPK:
                texts["crowding"] = crowding(folder)
        failed |= code
        if page is not None:
            for mark, text in texts.items():
                write(page, mark, text)
    return failed


def _chosen(only: Sequence[str], material: Material) -> list[str]:
    every = parts()
    for name in only:
        if name not in (*every, CALIBRATE):
            raise ConfigError(
                f"--only {name} was given, but one of {', '.join([*every, CALIBRATE])} was "
                "expected."
            )
    found = [name for name in (*every, CALIBRATE) if not only or name in only]
    needing = [
        name
        for name in found
        if name == CALIBRATE or every[name].base(material).activations == "language-model"
    ]
    if needing and not (material.model and material.text):
        raise ConfigError(
            f"{', '.join(needing)} need a language model, but --model or --text was not given; "
            "give both, or the other parts with --only."
        )
    return found


def _calibrated(material: Material, folder: Path, *, jobs: int) -> tuple[int, str]:
    """Returns the output of `topk-ortho calibrate` for the language model, as a block of code."""
    base = setting("planted-12", model=material.model, text=material.text, hook=material.hook)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = run_calibration(
            base,
            coefficients=(base.coefficient(),),
            l0=(6.0, 24.0),
            seeds=(3,),
            out=folder,
            jobs=jobs,
        )
    text = printed.getvalue().strip().replace(str(folder), f"runs/{CALIBRATE}")
    return code, f"```\n{text}\n```"


def share(root: Path, name: str) -> Path:
    """The folder of a part, whose runs lie beside it, common to all parts."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for common in SHARED:
        (root / common).mkdir(exist_ok=True)
        if not (folder / common).is_symlink():
            (folder / common).symlink_to(Path("..") / common)
    return folder


def markdown(part: Path) -> str:
    """Returns the page's text on a part."""
    (comparison,) = collect([part])
    return comparison_markdown(comparison)


def write(page: Path, name: str, text: str) -> None:
    """Put a text between the marks of a name; a page without them is not changed.

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
    replace_file(page, f"{head}{begin}\n\n{text}\n\n{end}{tail}".encode())


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
