"""Command lines that carry options of their own beside those of `train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.toml import nearest, option_types

NOT_HERE = {
    "resume": "an ablation goes on by itself when the same command is given again",
    "stop-after": "Ctrl-C stops an ablation, and the same command goes on",
    "profile": "profile one of its arms with topk-ortho train",
    "seed": "seeds are given by --seeds",
    "with-baseline": "the arm without the constraint is always there",
}
"""Options of `train` that mean nothing over many runs, and what to do instead."""


@dataclass(frozen=True)
class AblateOptions:
    """Compare arms over paired seeds: a grid over any options, beside the baselines.

    Takes every option of `topk-ortho train` (--config and --recipe too) for the arm that is
    varied. The baselines none, rate-matched-random, ortsae and matryoshka come along. Interrupted
    anywhere, the same command goes on and computes nothing twice.
    """

    vary: tuple[str, ...] = ()
    """Axes such as penalty.tau=fixed,mean-std; several make a grid of all combinations."""
    grid: str = ""
    """A ready-made grid: tau, efficiency, stability, fraction, criteria, gradient, schedule, l0 or
    cosine."""
    seeds: tuple[int, ...] = (10,)
    """How many seeds, from 400 on; several numbers are the seeds themselves."""
    without_arm: tuple[str, ...] = ()
    """Leave a baseline out."""
    with_arm: tuple[str, ...] = ()
    """Further arms beside it: random, ortsae-every-5, ortsae-child-only, coactive-cosine,
    matryoshka+coactivation, or a recipe by its name."""
    tune: bool = False
    """Choose every arm's coefficient first, by the same number of tries on seeds 0 to 2."""
    out: Path = Path("runs/ablation")
    """Folder of the plan and its runs."""
    jobs: int = 1
    """Runs at a time, each in a process of its own; they share the cores."""
    dry_run: bool = False
    """Print the arms with predicted time and memory, and train nothing."""
    retry_failed: bool = False
    """Try runs again that failed before."""
    shard: str = ""
    """Compute only part I of N, as I/N; all shards share one folder."""
    launcher: Literal["none", "submitit"] = "none"
    """`submitit` (pip install 'topk-ortho[cluster]') submits every shard as a job."""
    shards: int = 1
    """Jobs that `submitit` submits."""
    cluster: Literal["auto", "slurm", "local"] = "auto"
    """Where `submitit` runs them; `auto` takes SLURM where there is one."""
    cluster_option: tuple[str, ...] = ()
    """Settings of the jobs as submitit names them, such as slurm_partition=gpu timeout_min=240."""


@dataclass(frozen=True)
class CalibrateOptions:
    """Find out whether your activations need the constraint, and which setting to take.

    Takes every option of `topk-ortho train`. Known hierarchies are planted in the activations
    (--plant.roots and so on), a small grid of coefficient x L0 is trained on them, and the setting
    it would take is written as a file for `topk-ortho train --config`, without the planting.
    """

    coefficients: tuple[float, ...] = ()
    """Coefficients to try; a third, once and three times the criterion's own unless given."""
    l0: tuple[float, ...] = ()
    """L0 to try; half, once and twice --sae.k unless given. --sae.k is always among them."""
    seeds: tuple[int, ...] = (3,)
    """How many seeds, from 400 on; several numbers are the seeds themselves. Three are a quick
    look: ten give intervals that small effects can be told by."""
    out: Path = Path("runs/calibration")
    """Folder of the runs and of the chosen setting."""
    jobs: int = 1
    """Runs at a time, each in a process of its own."""
    retry_failed: bool = False
    """Try runs again that failed before."""


def split(
    arguments: Sequence[str], own: type, *, not_here: Mapping[str, str] = NOT_HERE
) -> tuple[list[str], list[str]]:
    """The command line's own options, repeated ones joined, and those of `train`.

    Args:
        arguments: the command line.
        own: the dataclass of the command's own options.
        not_here: options of `train` that mean nothing to it, and what to do instead.

    Raises:
        ConfigError: an option that neither has, or one of `train` that means nothing here.
    """
    kinds = option_types(own)
    flags = {f"no-{name}" for name, kind in kinds.items() if kind is bool}
    ours: dict[str, list[str]] = {}
    theirs: list[str] = []
    values = theirs
    for argument in arguments:
        if not argument.startswith("--") or argument == "--":
            values.append(argument)
            continue
        name, equals, value = argument[2:].partition("=")
        name = name.replace("_", "-")
        if name in kinds or name in flags or name == "help":
            values = ours.setdefault(f"--{name}", [])
            values += [value] if equals else []
            continue
        _refuse(name, list(kinds), not_here)
        values = theirs
        theirs.append(argument)
    return [word for name, given in ours.items() for word in (name, *given)], theirs


def names_given(arguments: Sequence[str]) -> set[str]:
    """Names of the options on a command line, with hyphens for underscores."""
    return {
        a[2:].partition("=")[0].replace("_", "-")
        for a in arguments
        if a.startswith("--") and a != "--"
    }


def _refuse(name: str, own: list[str], not_here: Mapping[str, str]) -> None:
    if name in not_here:
        raise ConfigError(f"--{name} was given, but {not_here[name]}; leave it out.")
    known = [*option_types(TrainConfig), "config", "recipe", "plant"]
    if name not in known and name not in own and not name.split(".")[-1].startswith("no-"):
        near = nearest(f"--{name}", [f"--{other}" for other in (*own, *known)])
        raise ConfigError(
            f"the option --{name} was given, but there is none of that name{near}; see --help "
            "here and of topk-ortho train."
        )
