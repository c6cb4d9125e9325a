"""Compare arms over paired seeds: grids, baselines, tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from topk_ortho.commands.reader import Given, Training, build, read, settings_of
from topk_ortho.commands.reader.training import OVER_MANY_RUNS
from topk_ortho.config.option import SEED, option, when
from topk_ortho.config.rules import check_effect
from topk_ortho.config.train import A_CORE_OR_MORE, check_places
from topk_ortho.studies.launch import SHARDS

LAUNCHING = ("launcher", "shards", "shard", "cluster", "cluster-option")
"""Options that are not passed to a shard."""
_LAUNCHED = when("launcher", "submitit")
_COMPUTED = when("dry-run", False)


@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """Compare arms over paired seeds: a grid over any options, beside the baselines.

    Takes every option of `topk-ortho train` (--config and --recipe too) for the arm that is
    varied. The baselines none, rate-matched-random, ortsae and matryoshka are included. Interrupted
    at any point, the same command continues and computes nothing twice.
    """

    vary: tuple[str, ...] = ()
    """Axes such as penalty.tau=fixed,mean-std; several make a grid of all combinations."""
    grid: str = ""
    """A ready-made grid: tau, efficiency, stability, fraction, criteria, gradient, schedule, l0 or
    cosine."""
    seeds: tuple[int, ...] = option((10,), within=SEED)
    """Number of seeds, counted from 400; several numbers are the seeds themselves."""
    without_arm: tuple[str, ...] = ()
    """Leave a baseline out."""
    with_arm: tuple[str, ...] = ()
    """Further arms: random, ortsae-every-5, ortsae-child-only, c2r, c2r-every-step, c2r-detached,
    c2r-child-only, coactive-cosine, matryoshka+constraint, or a recipe by its name."""
    tune: bool = False
    """Choose every arm's coefficient first, by the same number of tries on seeds 0 to 2."""
    out: Path = Path("runs/ablation")
    """Folder of the plan and its runs."""
    jobs: int = option(1, within=A_CORE_OR_MORE)
    """Runs at a time, each in its own process; they share the cores."""
    dry_run: bool = False
    """Print the arms with predicted time and memory, and train nothing."""
    retry_failed: bool = option(False, used=_COMPUTED)
    """Retry runs that failed before."""
    shard: str = option("", used=when("launcher", "none"))
    """Compute only part I of N, as I/N; all shards share one folder."""
    launcher: Literal["none", "submitit"] = option("none", used=_COMPUTED)
    """`submitit` (pip install 'topk-ortho[cluster]') submits every shard as a job."""
    shards: int = option(1, within=SHARDS, used=_LAUNCHED)
    """Jobs that `submitit` submits."""
    cluster: Literal["auto", "slurm", "local"] = option("auto", used=_LAUNCHED)
    """Where `submitit` runs them; `auto` takes SLURM where there is one."""
    cluster_option: tuple[str, ...] = option((), used=_LAUNCHED)
    """Settings of the jobs as submitit names them, such as slurm_partition=gpu timeout_min=240."""


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command; returns the exit code, 1 where a run failed."""
    given = read(Options, arguments, prog=prog, refused=OVER_MANY_RUNS)
    o, asked = build(Options, given), settings_of(given)
    check_places(asked.settings)
    from topk_ortho.studies.ablation import (
        Request,
        dry_run,
        run_ablation,
        settings_of_arms,
        stored_plan,
    )

    request = Request(
        base=asked.settings,
        out=o.out,
        vary=o.vary,
        grid=o.grid,
        seeds=o.seeds,
        without_arm=o.without_arm,
        with_arm=o.with_arm,
        jobs=o.jobs,
        shard=o.shard,
        tune=o.tune,
        retry_failed=o.retry_failed,
    )
    check_effect(asked.given, *settings_of_arms(request, given=asked.given))
    if o.dry_run:
        print(dry_run(request))
        return 0
    if o.launcher == "none":
        return run_ablation(request)
    stored_plan(request)
    submitted = _submitted(o, given)
    return run_ablation(request) if submitted == "local" else 0


def _submitted(o: Options, given: Given) -> str:
    """Submit every shard, report it, and return where they run."""
    from topk_ortho.studies.launch import submit

    submitted = submit(
        given.command(without=LAUNCHING),
        shards=o.shards,
        folder=o.out / "submitit",
        cluster=o.cluster,
        options=o.cluster_option,
    )
    print(submitted)
    return submitted.cluster
