"""List the runs of the source experiment, or train them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from topk_ortho.commands.reader import Training, build, read, settings_of
from topk_ortho.config import ConfigError
from topk_ortho.config.rules import check_effect
from topk_ortho.config.train import check_places
from topk_ortho.studies.recipes import RECIPES, listing

REFUSED = {"recipe": "all of them are trained here; topk-ortho train --recipe trains one"}


@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """List the runs of the source experiment, or train them all.

    `topk-ortho train --recipe NAME` trains one. With --out, every option of `train` sets what all
    of them share; finished recipes are not run again.
    """

    out: Path | None = None
    """Train every recipe, each in its own process, with its run folder in this folder."""


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command; returns the exit code, 1 where a recipe failed."""
    given = read(Options, arguments, prog=prog, refused=REFUSED)
    out = build(Options, given).out
    if out is None:
        if given.values:
            raise ConfigError(
                f"--{min(given.values)} was given, but it has no effect without --out, which "
                "trains the recipes; leave it out, or give --out DIR too."
            )
        print(listing())
        return 0
    from topk_ortho.studies.recipe_runs import run_recipes

    asked = {
        name: settings_of(replace(given, values={**given.values, "recipe": name}))
        for name in RECIPES
    }
    check_places(asked["baseline"].settings)
    settings = {name: found.settings for name, found in asked.items()}
    check_effect(asked["baseline"].given, *settings.values())
    return run_recipes(settings, out)
