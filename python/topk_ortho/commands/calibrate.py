"""Find out whether your activations need the constraint, and with which setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from topk_ortho.commands.reader import Training, build, read, settings_of
from topk_ortho.commands.reader.training import OVER_MANY_RUNS
from topk_ortho.config.option import SEED, option
from topk_ortho.config.rules import check_effect
from topk_ortho.config.train import A_CORE_OR_MORE, check_places

REFUSED = {**OVER_MANY_RUNS, "plant.no-enabled": "known hierarchies are what it measures by"}


@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """Find out whether your activations need the constraint, and which setting to take.

    Takes every option of `topk-ortho train`. Known hierarchies are planted in the activations
    (--plant.roots and so on), a small grid of coefficient x L0 is trained on them, and the setting
    it recommends is written as a file for `topk-ortho train --config`, without the planting.
    """

    coefficients: tuple[float, ...] = ()
    """Coefficients to try; a third, once and three times the criterion's own unless given."""
    l0: tuple[float, ...] = ()
    """L0 to try; half, once and twice --sae.k unless given. --sae.k is always included."""
    seeds: tuple[int, ...] = option((3,), within=SEED)
    """Number of seeds, counted from 400; several numbers are the seeds themselves. Three give a
    first impression, ten give intervals narrow enough for small effects."""
    out: Path = Path("runs/calibration")
    """Folder of the runs and of the chosen setting."""
    jobs: int = option(1, within=A_CORE_OR_MORE)
    """Runs at a time, each in its own process."""
    retry_failed: bool = False
    """Retry runs that failed before."""


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command; returns the exit code, 1 where a run failed."""
    given = read(Options, arguments, prog=prog, refused=REFUSED)
    o, asked = build(Options, given), settings_of(given)
    check_places(asked.settings)
    plant = replace(asked.settings.plant, enabled=True)
    check_effect(asked.given, replace(asked.settings, plant=plant))
    from topk_ortho.studies.calibrate import run_calibration

    return run_calibration(
        asked.settings,
        coefficients=o.coefficients,
        l0=o.l0,
        seeds=o.seeds,
        out=o.out,
        jobs=o.jobs,
        retry_failed=o.retry_failed,
    )
