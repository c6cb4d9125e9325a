"""`topk-ortho ablate`: a grid of arms over paired seeds, computed in parts and compared.

Everything lies in one folder: `ablation.json` (the plan), `runs/<hash>/` as `train` makes them,
`runs/<hash>.failed.json` with the reason of a failed one, and `activations/` where a language
model's were kept. The folder is the only state: started again, the same command continues.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from topk_ortho.activations.same_data import other_data
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.option import check_number
from topk_ortho.config.toml import config_hash
from topk_ortho.config.train import A_CORE_OR_MORE
from topk_ortho.report.typeset import count, metric
from topk_ortho.studies import tuning
from topk_ortho.studies.comparison import tables
from topk_ortho.studies.grid import choose
from topk_ortho.studies.outcome import failed_path, failure_of, result_of
from topk_ortho.studies.plan import (
    Plan,
    Run,
    Subject,
    baselines,
    runs_of,
    seeds_of,
    store,
    subjects,
)
from topk_ortho.studies.pool import Pool

SHOWN = ("excess", "explained_variance", "ce_score")


@dataclass(frozen=True)
class Request:
    """A request for an ablation; the names are those of the options."""

    base: TrainConfig
    out: Path
    vary: tuple[str, ...] = ()
    grid: str = ""
    seeds: tuple[int, ...] = (10,)
    without_arm: tuple[str, ...] = ()
    with_arm: tuple[str, ...] = ()
    jobs: int = 1
    shard: str = ""
    tune: bool = False
    retry_failed: bool = False


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, from 1 on."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Returns the part that `I/N` names; everything where it is empty.

        Raises:
            ConfigError: it is neither.
        """
        index, slash, count = text.partition("/")
        if not text:
            return cls()
        if slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
            return cls(int(index), int(count))
        raise ConfigError(
            f"--shard {text} was given, but I/N with I from 1 to N was expected; the first of "
            "four parts is 1/4."
        )

    def of(self, runs: Sequence[Run]) -> list[Run]:
        """The runs of this part."""
        return [run for n, run in enumerate(runs) if n % self.count == self.index - 1]


def run_ablation(request: Request) -> int:
    """Compute what is missing, print the tables; 1 if a run failed.

    Raises:
        ConfigError: the plan cannot be made.
        Interrupted: stopped by a signal; the same command resumes.
    """
    plan, shard, computed = _plan(request), Shard.parse(request.shard), Computation(request)
    if request.tune:
        plan = tune(plan, request, computed)
    store(plan, request.out)
    said(in_one_line(plan))
    computed.run(shard.of(unique(plan.runs)))
    return finish(plan, request, shard)


def in_one_line(plan: Plan) -> str:
    """Returns what a plan trains: what is varied, the arms beside it, the seeds, the runs."""
    axes = " x ".join(f"{axis.option} = {', '.join(map(str, axis.values))}" for axis in plan.axes)
    own = plan.base.pairs.criterion if plan.base.constrained else "no constraint"
    varied = f"{own} with {axes}" if axes else own
    beside = f", beside {', '.join(plan.arms)}" if plan.arms else ""
    runs, seeds = len(unique(plan.runs)), len(plan.seeds)
    return (
        f"training {varied}{beside}; {seeds} seed{'s' if seeds > 1 else ''} each, {runs} runs of "
        f"{plan.base.steps:,} steps"
    )


def dry_run(request: Request) -> str:
    """The arms with predicted time and memory; writes nothing.

    Raises:
        ConfigError: the plan cannot be made, or its data cannot be opened.
    """
    from topk_ortho.studies.prediction import predict, predicted

    plan, shard = _plan(request), Shard.parse(request.shard)
    tried: tuple[Run, ...] = ()
    if request.tune:
        found = _subjects(plan)
        tried = (*tuning.references(found), *(r for t in tuning.tries(found) for r in t.runs))
        tried = tuple(replace(run, label=f"tuning: {run.label}") for run in tried)
    wanted = [*unique(tried), *shard.of(unique(plan.runs))]
    lines = [predicted(list(predict(wanted, request.out)), jobs=request.jobs)]
    if plan.left_out:
        lines.append(f"left out: {', '.join(plan.left_out)}")
    return "\n".join(lines)


def settings_of_arms(request: Request, *, given: Collection[str] = ()) -> list[TrainConfig]:
    """Returns the settings of every arm, whatever the seed.

    Args:
        request: the ablation.
        given: options of the varied arm that were given, which no axis may set as well.

    Raises:
        ConfigError: the plan cannot be made, or an axis sets an option that was given.
    """
    plan = _plan(request)
    for axis in plan.axes:
        if axis.option in given:
            raise ConfigError(
                f"--{axis.option} was given together with an axis that sets it, but one of both "
                "was expected; leave it out."
            )
    return [subject.config for subject in _subjects(plan)]


def stored_plan(request: Request) -> Plan:
    """The plan as far as it is known before any run, stored in the folder."""
    plan = _plan(request)
    if request.tune:
        found = _subjects(plan)
        tried = tuning.as_json(tuning.tries(found), tuning.references(found), [])
        store(replace(plan, runs=(), tuning=tried), request.out)
    else:
        store(plan, request.out)
    return plan


def _plan(request: Request) -> Plan:
    """The plan, with coefficients as they are before any tuning."""
    check_number("jobs", request.jobs, A_CORE_OR_MORE)
    base = replace(request.base, with_baseline=False, seed=0)
    base, axes = choose(base, grid=request.grid, vary=request.vary)
    if request.tune and "penalty.coefficient" in [axis.option for axis in axes]:
        raise ConfigError(
            "--tune was given together with --vary penalty.coefficient, but tuning chooses the "
            "coefficient itself; leave one of them out."
        )
    names = baselines(base, request.without_arm, request.with_arm)
    seeds = seeds_of(request.seeds)
    if request.tune and (both := set(seeds) & set(tuning.SEEDS)):
        raise ConfigError(
            f"--seeds {min(both)} was given together with --tune, but seeds that are not those of "
            f"the tuning ({', '.join(map(str, tuning.SEEDS))}) were expected; --seeds 10 takes 400 "
            "to 409."
        )
    wanted = list(subjects(base, axes, names))
    others = {s.label for s in wanted if s.config.sae.kind != base.sae.kind}
    if base.init_from is not None and others:
        raise ConfigError(
            f"--init-from {base.init_from} was given, which is a {base.sae.kind}, but the arms "
            f"{', '.join(sorted(others))} are of another kind; leave them out "
            "(--without-arm), or out of --vary."
        )
    runs = runs_of(wanted, seeds)
    return Plan(base, axes, names, tuple(request.without_arm), seeds, runs)


def _subjects(plan: Plan) -> list[Subject]:
    return list(subjects(plan.base, plan.axes, plan.arms))


def tune(plan: Plan, request: Request, computed: Computation) -> Plan:
    """The plan with the coefficients that the rule takes, and what was tried in it.

    A shard computes its own part of the tries first and then whatever the others have not begun,
    so that it never waits for a part that nobody has started.
    """
    found, shard = _subjects(plan), Shard.parse(request.shard)
    tried, nones = tuning.tries(found), tuning.references(found)
    store(replace(plan, runs=(), tuning=tuning.as_json(tried, nones, [])), request.out)

    def result(run: Run) -> dict[str, Any] | None:
        return result_of(request.out, run.hash)

    computed.run(unique(nones))
    worth = tuning.worth_tuning(tried, nones, result)
    runs = unique(run for t in worth for run in t.runs)
    runs.sort(key=lambda run: run.seed)  # a process keeps the data of one seed
    own = shard.of(runs)
    computed.run([*own, *(run for run in runs if run not in own)])
    chosen, record = tuning.choose(found, worth, nones, result)
    for entry in record:
        said(f"tuned: {entry['label']}: coefficient {entry['coefficient']:g}{_doubt(entry)}")
    stored = tuning.as_json(tried, nones, record)
    return replace(plan, runs=runs_of(chosen, plan.seeds), tuning=stored)


def _doubt(entry: dict[str, Any]) -> str:
    """Returns a note on a coefficient that tuning chose."""
    if not entry["tried"]:
        return " (its own: on the tuning seeds there is nothing to remove)"
    if not entry["measured"]:
        return " (its own: no try could be measured)"
    tried = [one["coefficient"] for one in entry["tried"]]
    end = {min(tried): "smallest", max(tried): "largest"}.get(entry["coefficient"])
    return f" (the {end} that was tried)" if end else ""


def unique(runs: Iterable[Run]) -> list[Run]:
    """Returns each configuration once, under its first label."""
    return list({run.hash: run for run in reversed(list(runs))}.values())[::-1]


class Computation:
    """Runs what is missing, and prints a line for each run."""

    def __init__(self, request: Request) -> None:
        self._root, self._jobs = request.out, request.jobs
        self._retry = request.retry_failed
        self._tried: set[str] = set()

    def run(self, runs: Sequence[Run]) -> None:
        """Compute every run that has neither finished nor failed."""
        wanted = [run for run in runs if self._missing(run)]
        self._check_data([run for run in runs if run not in wanted])
        self._tried |= {run.hash for run in wanted}
        labels = {run.hash: run for run in wanted}
        done = len(runs) - len(wanted)
        if done:
            said(f"{done} of {len(runs)} runs are there already")

        def told(config: TrainConfig, reason: str | None) -> None:
            nonlocal done
            done += 1
            run = labels[config_hash(config)]
            what = f"FAILED: {reason}" if reason else self._figures(run)
            said(f"[{done}/{len(runs)}] {run.label}, seed {run.seed}: {what}")

        if wanted:
            Pool(self._root, jobs=self._jobs, told=told).run([run.config for run in wanted])

    def _missing(self, run: Run) -> bool:
        if result_of(self._root, run.hash) is not None:
            return False
        if failure_of(self._root, run.hash) is None:
            return True
        if not self._retry or run.hash in self._tried:
            return False
        failed_path(self._root, run.hash).unlink()
        return True

    def _check_data(self, runs: Sequence[Run]) -> None:
        """Refuse to count runs that were trained on other files of the same names."""
        for run in runs:
            folder = self._root / run.folder
            if (folder / "manifest.json").exists() and (other := other_data(folder, run.config)):
                raise ConfigError(
                    f"--out {self._root} was given, but {run.label}, seed {run.seed}, was trained "
                    f"there on other data: {other} differs; take another folder."
                )

    def _figures(self, run: Run) -> str:
        figures = result_of(self._root, run.hash) or {}
        parts = [f"{name.replace('_', ' ')} {metric(figures[name])}" for name in SHOWN
                 if isinstance(figures.get(name), float)]  # fmt: skip
        return ", ".join([*parts, f"{count(figures.get('seconds'))} s"])


def finish(plan: Plan, request: Request, shard: Shard) -> int:
    """Print the tables, or what is still missing of them; the exit code."""
    root, runs = request.out, unique(plan.runs)
    failed = failures(plan, root)
    failed_tries = 0
    there = sum(result_of(root, run.hash) is not None for run in runs)
    if there + len(failed) < len(runs):
        print(f"{there} of {len(runs)} runs are there. Once every shard is through, the same "
              "command without --shard prints the tables.")  # fmt: skip
    else:
        print(tables(plan, lambda run: result_of(root, run.hash)))
    for run, why in failed:
        print(f"failed: {run.label}, seed {run.seed}: {why}")
    tried = {entry["hash"]: entry for entry in (plan.tuning or {}).get("runs", [])}
    for name, entry in tried.items():
        if (reason := failure_of(root, name)) is not None:
            print(f"failed: tuning {entry['label']}, seed {entry['seed']}: {reason}")
            failed_tries += 1
    if failed or failed_tries:
        print("--retry-failed tries failed runs again.")
    folder = shlex.quote(str(root))
    print(f"\nreport: topk-ortho report {folder} --out {shlex.quote(str(root / 'report'))}")
    return 1 if failed or failed_tries else 0


def failures(plan: Plan, root: Path) -> list[tuple[Run, str]]:
    """The planned runs that failed, with their reasons."""
    found = [(run, failure_of(root, run.hash)) for run in unique(plan.runs)]
    return [(run, why) for run, why in found if why is not None]


def said(line: str) -> None:
    """Progress goes to stderr, results to stdout."""
    print(line, file=sys.stderr, flush=True)
