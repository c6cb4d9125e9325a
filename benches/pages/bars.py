"""`make bars`: checks the default arm's means over paired seeds against thresholds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from settings import setting

from topk_ortho.activations import Activations, prepare
from topk_ortho.commands.reader import build, read
from topk_ortho.commands.reader.output import guarded
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.option import SEED, option
from topk_ortho.config.rules import check
from topk_ortho.config.toml import config_hash
from topk_ortho.report.table import comparison_table
from topk_ortho.studies.arms import VARIED, arms
from topk_ortho.training import resume, train

Figures = dict[str, float]
COLUMNS = (
    "absorption_rate",
    "excess",
    "base_miss",
    "f1_parent",
    "f1_child",
    "mcc",
    "explained_variance",
    "l0",
    "dead_features",
    "step_ms",
)

# (sentence, test): `c` is the default arm's means, `n` those of `none`.
Bar = tuple[str, Callable[[Figures, Figures], bool]]


def _at_most(key: str, limit: float) -> Bar:
    return f"{key} <= {limit:g}", lambda c, n: c[key] <= limit


def _share_of_none(key: str, share: float) -> Bar:
    return f"{key} <= {share:g} of none", lambda c, n: c[key] <= share * n[key]


def _above_none(key: str, margin: float) -> Bar:
    return f"{key} >= none {margin:+g}", lambda c, n: c[key] >= n[key] + margin


BARS: dict[str, tuple[Bar, ...]] = {
    "forest-240": (
        _at_most("absorption_rate", 0.25),
        _share_of_none("excess", 0.4),
        _above_none("f1_parent", 0.25),
        _above_none("f1_child", 0.05),
        _above_none("mcc", 0.01),
        _above_none("explained_variance", 0.0),
    ),
    "forest-256": (
        _at_most("absorption_rate", 0.035),
        _above_none("explained_variance", 0.0),
        _above_none("mcc", 0.03),
        _above_none("f1_child", 0.04),
    ),
    "planted-6": (
        _share_of_none("absorption_rate", 0.5),
        _share_of_none("excess", 0.6),
        _above_none("f1_parent", 0.2),
        _above_none("mcc", 0.06),
        _above_none("explained_variance", -0.008),
    ),
    "planted-12": (
        _share_of_none("excess", 0.5),
        _above_none("explained_variance", -0.003),
        _above_none("mcc", 0.0),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train the arms of a setting over paired seeds, print means, and check the thresholds."""

    setting: str = option(positional=True)
    """forest-240, forest-256, planted-6 or planted-12."""
    seeds: tuple[int, ...] = option((0, 1, 2), within=SEED)
    """Paired seeds."""
    arms: tuple[str, ...] = ()
    """Some of the setting's arms; all unless given."""
    out: Path = Path("runs/bars")
    """Run folders; finished ones are reused, interrupted ones are resumed."""
    model: str = ""
    """Language model of the planted settings."""
    text: tuple[Path, ...] = ()
    """Text files of the planted settings."""
    hook: str = "blocks.3.hook_resid_post"
    """Hook point of the planted settings."""


def main(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code is 1 where a threshold is missed."""
    o = build(Options, read(Options, arguments, prog="bars"))
    return run_bars(
        o.setting, seeds=o.seeds, arms=o.arms, out=o.out, model=o.model, text=o.text, hook=o.hook
    )


def run_bars(
    name: str,
    *,
    seeds: Sequence[int],
    arms: Sequence[str],
    out: Path,
    model: str,
    text: tuple[Path, ...],
    hook: str,
) -> int:
    """Train what is missing, print the table and the thresholds; 1 if one is missed."""
    base = check(setting(name, model=model, text=text, hook=hook))
    chosen = _chosen(base, arms)
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in chosen}
    data: Activations | None = None
    for seed in seeds:
        data = prepare(replace(base, seed=seed), language=data.language if data else None)
        for arm, config in chosen.items():
            results[arm].append(_result(config, seed, out / name / arm, data))
    means = {arm: _mean(figures) for arm, figures in results.items()}
    print(f"{name}, means over seeds {', '.join(map(str, seeds))}")
    print(comparison_table(list(means.items()), COLUMNS))
    if not {"none", VARIED} <= means.keys():
        return 0
    missed = 0
    k = base.sae.k
    matched: Bar = (
        f"L0 within 3 % of {k:g}",
        lambda c, n: all(abs(x["l0"] / k - 1) <= 0.03 for x in (c, n)),
    )
    for sentence, holds in (*BARS[name], matched):
        met = holds(means[VARIED], means["none"])
        missed += not met
        print(f"  {'met   ' if met else 'MISSED'}  {sentence}")
    return 1 if missed else 0


def _chosen(base: TrainConfig, names: Sequence[str]) -> dict[str, TrainConfig]:
    every = arms(base)
    for name in names:
        if name not in every:
            raise ConfigError(
                f"the arm {name} was given, but one of {', '.join(every)} was expected."
            )
    return {name: config for name, config in every.items() if not names or name in names}


def _result(config: TrainConfig, seed: int, folder: Path, data: Activations) -> dict[str, Any]:
    config = replace(config, seed=seed)
    path = folder / f"seed-{seed}-{config_hash(config)}"
    return resume(path, data=data) if path.exists() else train(config, path, data=data)


def _mean(results: Sequence[dict[str, Any]]) -> Figures:
    keys = [k for k in COLUMNS if all(isinstance(r.get(k), (int, float)) for r in results)]
    return {k: sum(r[k] for r in results) / len(results) for k in keys}


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
