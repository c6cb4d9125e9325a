"""The command `calibrate`: whether this data needs the constraint, and how strong.

Known hierarchies are planted in the user's own activations, so that absorption can be counted; a
small grid of coefficient x L0 is trained on them, over paired seeds, as an ablation like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from topk_ortho.checkpoint.atomic import replace_file
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.registry import ARCHITECTURES
from topk_ortho.config.rules import check
from topk_ortho.config.toml import config_text
from topk_ortho.constraint.reach import COVERED
from topk_ortho.metrics.health import health
from topk_ortho.report.reading import objects, read_json
from topk_ortho.report.table import comparison_table
from topk_ortho.report.typeset import change, listed, metric
from topk_ortho.report.words import LABELS
from topk_ortho.statistics import Difference, finite, paired
from topk_ortho.studies.ablation import (
    Computation,
    Request,
    failures,
    in_one_line,
    said,
    unique,
)
from topk_ortho.studies.grid import Axis
from topk_ortho.studies.outcome import result_of
from topk_ortho.studies.plan import Plan, Run, runs_of, seeds_of, store, subjects
from topk_ortho.studies.tuning import MAY_LOSE, Tried, mean_of, weigh
from topk_ortho.terminal import aligned, width

COEFFICIENT_FACTORS = (1 / 3, 1.0, 3.0)
L0_FACTORS = (0.5, 1.0, 2.0)
LEAST_EXCESS = 0.02
"""Excess of `none` below which there is nothing worth removing."""
LEAST_SHARE = 0.25
"""Share of it that a setting has to remove to be worth its cost."""
ONE_SEED = "\nOne seed has no interval, so any of this may be chance; --seeds 3 tells more."
CHOSEN = "chosen.toml"
REACHED = ("pairs_features", "living_features")
"""Metrics of a run: different features in its last pairs, and features that fire at all."""
COLUMNS = ("absorption_rate", "base_miss", "excess", "f1_parent", "f1_child", "mcc",
           "explained_variance", "l0", "dead_features", "step_ms")  # fmt: skip

Metrics = dict[str, Any]
Values = Mapping[int, float | None]


@dataclass(frozen=True)
class Setting:
    """One coefficient at one L0, 0 for none, with its metrics by seed."""

    k: float
    coefficient: float
    runs: tuple[Run, ...]
    by_seed: dict[int, Metrics]

    @property
    def label(self) -> str:
        return "none" if not self.coefficient else f"coefficient {self.coefficient:g}"

    def means(self) -> Metrics:
        """Means over the seeds, without the metrics that some seed lacks."""
        metrics = list(self.by_seed.values())
        found = {key: mean_of(metrics, key) for key in COLUMNS}
        return {key: value for key, value in found.items() if value is not None}

    def values(self, key: str) -> dict[int, float | None]:
        """One metric by seed."""
        return {seed: metrics.get(key) for seed, metrics in self.by_seed.items()}


def run_calibration(
    base: TrainConfig,
    *,
    coefficients: Sequence[float] = (),
    l0: Sequence[float] = (),
    seeds: Sequence[int] = (3,),
    out: Path,
    jobs: int = 1,
    retry_failed: bool = False,
) -> int:
    """Train the grid, print what it found, write the chosen setting; 1 if a run failed.

    Raises:
        ConfigError: synthetic activations, no constraint to calibrate, or a setting out of range.
    """
    plan = _plan(base, coefficients=coefficients, l0=l0, seeds=seeds)
    store(plan, out)
    print(planted(plan.base))
    said(in_one_line(plan))
    request = Request(base=plan.base, out=out, jobs=jobs, retry_failed=retry_failed)
    Computation(request).run(unique(plan.runs))
    failed = failures(plan, out)
    for run, why in failed:
        print(f"failed: {run.label}, seed {run.seed}: {why}")
    settings = _settings(plan, out)
    print(_by_l0(settings, plan.seeds))
    taken = {k: _taken(settings, k) for k in sorted({s.k for s in settings})}
    none, chosen, _ = taken[base.sae.k]
    print(_by_root(plan, out, [none] if chosen is None else [none, chosen]))
    print()
    for k, (_, _, why_) in taken.items():
        print(f"At L0 {k:g}{' (yours)' if k == base.sae.k else ''}: {why_}")
    print(_by_need(taken))
    if len(plan.seeds) == 1:
        print(ONE_SEED)
    if none.means() and not health(none.means()):
        path = out / CHOSEN
        replace_file(path, config_text(_without_planting(base, chosen)).encode())
        what = "this setting" if chosen else "the SAE without the constraint"
        print(f"\n{path} holds {what} at L0 {base.sae.k:g}, without the planting: topk-ortho train "
              f"--config {path}")  # fmt: skip
    return 1 if failed else 0


def _taken(settings: Sequence[Setting], k: float) -> tuple[Setting, Setting | None, str]:
    """At one L0: the SAE without the constraint, the setting to take, and why."""
    own = [s for s in settings if s.k == k]
    none = next(s for s in own if not s.coefficient)
    return none, *choose(none, [s for s in own if s.coefficient])


def _plan(
    base: TrainConfig, *, coefficients: Sequence[float], l0: Sequence[float], seeds: Sequence[int]
) -> Plan:
    if base.activations == "synthetic":
        raise ConfigError(
            "calibrate was given synthetic activations, but your own were expected; add "
            "--activations language-model with --model, --text and --hook, or --activations files "
            "with --data."
        )
    if not base.constrained:
        raise ConfigError(
            "calibrate was given --pairs.criterion none, but a constraint to calibrate was "
            "expected; take another criterion."
        )
    own = base.coefficient()
    values = coefficients or [float(f"{own * f:.3g}") for f in COEFFICIENT_FACTORS]
    whole = ARCHITECTURES[base.sae.kind].whole_k
    ks = l0 or [float(round(base.sae.k * f, 0 if whole else 2)) for f in L0_FACTORS]
    if min(values) <= 0:
        raise ConfigError(
            f"--coefficients {' '.join(f'{v:g}' for v in values)} was given, but numbers above 0 "
            "were expected; the setting without the constraint is always there."
        )
    # a wide dictionary has no more features than d_sae
    ks = sorted({base.sae.k, *(k for k in ks if l0 or 1 <= k <= base.sae.d_sae / 2)})
    base = replace(base, with_baseline=False, seed=0, plant=replace(base.plant, enabled=True))
    axes = (Axis("sae.k", tuple(ks)), Axis("penalty.coefficient", tuple(sorted(set(values)))))
    chosen = seeds_of(seeds)
    runs = runs_of(subjects(check(base), axes, ("none",)), chosen)
    left_out = ("rate-matched-random", "ortsae", "matryoshka")
    return Plan(base, axes, ("none",), left_out, chosen, runs)


def planted(base: TrainConfig) -> str:
    """Returns what is added to the activations, and what that can show."""
    p = base.plant
    return (
        f"Planted in your activations: {p.roots} parent features, firing on {p.rate_high:.3g} to "
        f"{p.rate_low:.3g} of the tokens, each with {p.children} children of which one is on with "
        f"probability {p.child_probability:g} when the parent is; random directions (cosine of "
        f"child and parent {p.parent_child_cosine:g}), magnitude {p.magnitude:g} of the square "
        "root of the data's total variance.\n"
        "A planted hierarchy is a stand-in: absorption is counted on it because the truth is known "
        "there, and your model's own features may be weaker, rarer or overlap. --plant.magnitude, "
        "--plant.rate-high and the other --plant options change it.\n"
    )


def _settings(plan: Plan, out: Path) -> list[Setting]:
    found = []
    for _, runs in plan.subjects():
        config = runs[0].config
        metrics = {run.seed: f for run in runs if (f := result_of(out, run.hash)) is not None}
        coefficient = config.coefficient() if config.constrained else 0.0
        found.append(Setting(config.sae.k, coefficient, tuple(runs), metrics))
    return sorted(found, key=lambda s: (s.k, s.coefficient))


def _by_l0(settings: Sequence[Setting], seeds: Sequence[int]) -> str:
    """Every setting, L0 by L0: what each removes of none's excess, and what it costs."""
    rows = [(f"L0 {s.k:g}, {s.label}", s.means()) for s in settings if s.means()]
    lines = [f"means over seeds {', '.join(map(str, seeds))}", comparison_table(rows, COLUMNS), ""]
    for setting in settings:
        if setting.coefficient:
            none = next(s for s in settings if s.k == setting.k and not s.coefficient)
            lines.append(f"L0 {setting.k:g}, {setting.label}: {_against(setting, none)}")
            lines += _reached(setting)
    return "\n".join(lines)


def _against(setting: Setting, none: Setting) -> str:
    parts = []
    for key in ("excess", "explained_variance", "f1_child", "mcc"):
        name = LABELS[key].name
        parts.append(f"{name} {_difference(setting.values(key), none.values(key))}")
    return ", ".join(parts)


def _reached(setting: Setting) -> list[str]:
    """Returns a line on what the pairs lie among, where that is known."""
    metrics = list(setting.by_seed.values())
    features, living = (mean_of(metrics, key) for key in REACHED)
    if features is None or not living:
        return []
    said = f"  its pairs lie among {features:,.0f} of {living:,.0f} living features at the end"
    if features >= COVERED * living:
        return [said]
    return [f"{said}, so it is idle for the rest; compare criteria: --pairs.criterion"]


def _difference(ours: Values, theirs: Values) -> str:
    """Returns a difference with its interval, or that of the one common seed."""
    difference = paired(ours, theirs)
    both = [(finite(ours[seed]), finite(theirs.get(seed))) for seed in ours]
    known = [(a, b) for a, b in both if a is not None and b is not None]
    if difference is None and len(known) == 1:
        return f"{known[0][0] - known[0][1]:+.3f} (one seed)"
    return _change(difference)


def _change(difference: Difference | None) -> str:
    covers = difference is not None and not difference.detectable
    return change(difference, ", no detectable change" if covers else "")


def choose(none: Setting, tried: Sequence[Setting]) -> tuple[Setting | None, str]:
    """Returns the setting to take, None for the SAE without the constraint, and why."""
    means = none.means()
    excess = means.get("excess")
    if excess is None:
        return None, "none could not be measured, so nothing can be advised."
    why = health(means)
    if why:
        return None, f"the SAE itself is not healthy: {why}. Train it longer or wider first."
    if excess < LEAST_EXCESS:
        return None, (
            "no constraint is needed: parents are silent on "
            f"{metric(means.get('absorption_rate'))} of their children's tokens and on "
            f"{metric(means.get('base_miss'))} of their own, so the excess is {excess:.3f}, below "
            f"{LEAST_EXCESS:g}."
        )
    pairs = [(s.coefficient, list(s.by_seed.values())) for s in tried]
    _, best = weigh(pairs, none=means["explained_variance"])
    if best is not None and best.allowed and best.excess is None:
        return None, "what a coefficient removes could not be measured, so nothing can be advised."
    if best is None or not best.allowed:
        return None, (
            "none of the coefficients is worth it: each costs more than "
            f"{MAY_LOSE:g} of explained variance."
        )
    return _worth(none, next(s for s in tried if s.coefficient == best.coefficient), best)


def _worth(none: Setting, setting: Setting, best: Tried) -> tuple[Setting | None, str]:
    excess = none.means()["excess"]
    difference = paired(setting.values("excess"), none.values("excess"))
    removed = excess - (best.excess or 0.0)
    if removed < LEAST_SHARE * excess:
        return None, (
            f"no constraint is advised: of an excess of {excess:.3f} the best setting "
            f"({setting.label}) removes only {removed:.3f}."
        )
    seeds = "one seed has no interval" if difference is None else f"change {_change(difference)}"
    return setting, (
        f"{setting.label} removes {removed / excess:.0%} of the excess, {excess:.3f} -> "
        f"{best.excess:.3f} ({seeds}); of the settings that lose at most {MAY_LOSE:g} of "
        "explained variance it is the weakest within one standard error of the lowest excess."
    )


def _by_need(taken: dict[float, tuple[Setting, Setting | None, str]]) -> str:
    """Returns which L0 do well without the constraint, and which with it."""
    fit = {k: chosen for k, (none, chosen, _) in taken.items()
           if none.means() and not health(none.means())}  # fmt: skip
    without = [f"{k:g}" for k, chosen in fit.items() if chosen is None]
    with_it = [f"{k:g}" for k, chosen in fit.items() if chosen is not None]
    said = []
    if with_it:
        said.append(f"take the constraint at L0 {listed(with_it)}")
    if without:
        said.append(f"train without it at L0 {listed(without)}")
    return f"\nOf the L0 that were tried: {listed(said)}." if said else ""


def _by_root(plan: Plan, out: Path, settings: Sequence[Setting]) -> str:
    """Returns where absorption occurs: by planted parent, the most frequent first."""
    p = plan.base.plant
    rows = []
    for root in range(p.roots):
        ratio = p.rate_low / p.rate_high
        row: Metrics = {"rate": p.rate_high * ratio ** (root / max(1, p.roots - 1))}
        for setting in settings:
            edges = [e for run in setting.runs for e in _edges(out / run.folder)
                     if e.get("parent") == root]  # fmt: skip
            for key in ("absorption_rate", "excess"):
                values = [value for e in edges if (value := finite(e.get(key))) is not None]
                row[f"{key}, {setting.label}"] = sum(values) / len(values) if values else None
        rows.append((f"parent {root}", row))
    if all(value is None for _, row in rows for name, value in row.items() if name != "rate"):
        return ""
    header = list(rows[0][1])
    lines = [["", *header], *([name, *map(metric, row.values())] for name, row in rows)]
    head = f"\nwhere, at L0 {settings[0].k:g}, means over each parent's children:"
    return "\n".join([head, *aligned(lines, rule=False, within=width())])


def _edges(folder: Path) -> list[Metrics]:
    path = folder / "ground_truth.json"
    return objects(read_json(path).get("edges"))


def _without_planting(base: TrainConfig, chosen: Setting | None) -> TrainConfig:
    plain = replace(base, plant=replace(TrainConfig().plant))
    if chosen is None:
        return plain.without_constraint()
    return replace(plain, penalty=replace(plain.penalty, coefficient=chosen.coefficient))
