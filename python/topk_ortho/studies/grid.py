"""Axes of an ablation: options and the values they take, given one by one or ready-made by name."""

from __future__ import annotations

import itertools
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.registry import ARCHITECTURES, CRITERIA
from topk_ortho.config.renamed import renamed_option
from topk_ortho.config.toml import NOT_HASHED, from_table, nearest, option_types, to_table
from topk_ortho.config.values import choices

FACTORS = (0.25, 0.5, 1.0, 1.5, 2.5)
"""Of the arm's own coefficient: what `efficiency` and `--tune` try."""
L0_FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0)
COSINES = (0.0, 0.2, 0.4, 0.6)
ONE_OR_THE_OTHER = {"pairs.fraction": "pairs.per-feature", "pairs.per-feature": "pairs.fraction"}
"""Two options for k: varying one removes the other from the base."""

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """An option, by its name on the command line, and the values it takes."""

    option: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Grid:
    """A ready-made grid: what it asks, the settings it needs in the base, and its axes."""

    summary: str
    axes: Callable[[TrainConfig], tuple[Axis, ...]]
    needs: tuple[tuple[str, Any], ...] = ()


def parse_axis(text: str, *, seeds: bool = False) -> Axis:
    """The axis of `penalty.tau=fixed,mean-std`; `seeds` says that `seed` may be one as well.

    A list of numbers as one value is written with slashes: `sae.prefixes=32/96/256,64/256`.

    Raises:
        ConfigError: no such option, one that cannot be varied, no values, or one of a wrong type.
    """
    name, equals, values = text.removeprefix("--").partition("=")
    option = name.replace("_", "-")
    kinds = option_types()
    if option not in kinds:
        if renamed := renamed_option(option):
            raise ConfigError(f"--vary {renamed}")
        raise ConfigError(
            f"--vary {text} was given, but there is no option --{option}"
            f"{nearest(option, list(kinds))}; correct the name."
        )
    if (option == "seed" and not seeds) or option.replace("-", "_") in NOT_HASHED:
        instead = "--seeds 10" if option == "seed" else "one value as an ordinary option"
        raise ConfigError(
            f"--vary {text} was given, but an option that makes another arm was expected; "
            f"give {instead}."
        )
    words = [word.strip() for word in values.split(",") if word.strip()]
    if not equals or not words:
        raise ConfigError(
            f"--vary {text} was given, but a name and values were expected; "
            "write --vary penalty.tau=fixed,mean-std."
        )
    read = tuple(_read(word, kinds[option], text) for word in words)
    if len(set(read)) < len(read):
        raise ConfigError(f"--vary {text} was given, but a value is listed twice; keep one.")
    return Axis(option, read)


def _read(word: str, kind: Any, text: str) -> Any:
    """A value of an option's type from its word."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        rest = next(part for part in parts if part is not type(None))
        return None if word == "None" else _read(word, rest, text)
    if listed := [str(name) for name in choices(kind)]:
        canonical = word.replace("_", "-")
        if canonical in listed:
            return canonical
        expected = f"one of {', '.join(listed)}{nearest(canonical, listed)}"
    elif origin is tuple and parts[0] is int:
        return tuple(_read(item, int, text) for item in word.split("/"))
    elif kind is bool:
        if word in ("true", "false", "True", "False"):
            return word.lower() == "true"
        expected = "true or false"
    elif kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            expected = "a whole number" if kind is int else "a number"
    elif kind in (str, Path):
        return kind(word)
    else:
        expected = "an option with a single value"
    raise ConfigError(f"--vary {text} has {word!r}, but {expected} was expected; correct it.")


def with_values(config: TrainConfig, values: Values) -> TrainConfig:
    """The configuration with these options; k said in one way takes the other way out.

    Raises:
        ConfigError: a value of the wrong type.
    """
    table = to_table(config)
    given = dict(values)
    for option in values:
        given.setdefault(ONE_OR_THE_OTHER.get(option, option), None)
    if any(option.startswith("plant.") for option in values):
        given.setdefault("plant.enabled", True)
    for option, value in given.items():
        *path, key = option.replace("-", "_").split(".")
        at = table
        for part in path:
            at = at[part]
        at.pop(key, None)
        if value is not None:
            at[key] = (
                list(value)
                if isinstance(value, tuple)
                else (str(value) if isinstance(value, Path) else value)
            )
    return from_table(table)


def names(chosen: Sequence[Values]) -> list[str]:
    """Returns a name for each cell that can be that of a folder, such as `sae.k=8_seed=1`.

    Where only hook points differ, they are the names.
    """
    plain = all(list(values) == ["hook"] for values in chosen)
    said = [str(values["hook"]) if plain else shown(values) for values in chosen]
    return [re.sub(r"[^\w.=+-]+", "_", name).strip(".") or "run" for name in said]


def cells(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Returns every combination of the axes' values; one empty cell without axes."""
    options = [axis.option for axis in axes]
    product = itertools.product(*(axis.values for axis in axes))
    return [dict(zip(options, values, strict=True)) for values in product]


def shown(values: Values) -> str:
    """Returns a label such as `penalty.tau=fixed, sae.k=8`."""
    return ", ".join(f"{option}={shown_value(value)}" for option, value in values.items())


def shown_value(value: Any) -> str:
    """A value as `--vary` reads it."""
    if isinstance(value, (list, tuple)):
        return "/".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def true_l0(config: TrainConfig) -> float:
    """Returns the mean number of true features on in synthetic data, planted ones included.

    Raises:
        ConfigError: other activations, for which it is unknown.
    """
    if config.activations != "synthetic":
        raise ConfigError(
            f"--grid l0 was given with --activations {config.activations}, but only synthetic "
            "data has a known L0; write --vary sae.k=6,8,12,16 instead."
        )
    from topk_ortho.activations.synthetic import SyntheticSource

    tree = SyntheticSource(config.synthetic, seed=config.seed).hierarchy
    some_child = tree.child_probability if tree.children else 0.0
    l0 = float(tree.root_rate.sum()) * (1 + some_child) + float(tree.independent_rate.sum())
    if config.plant.enabled:
        plant = config.plant
        ratio = plant.rate_low / plant.rate_high
        rates = [
            plant.rate_high * ratio ** (r / max(1, plant.roots - 1)) for r in range(plant.roots)
        ]
        l0 += sum(rates) * (1 + (plant.child_probability if plant.children else 0.0))
    return l0


def _coefficients(config: TrainConfig) -> tuple[Axis, ...]:
    own = config.coefficient()
    return (Axis("penalty.coefficient", tuple(round(own * f, 6) for f in FACTORS)),)


def _l0(config: TrainConfig) -> tuple[Axis, ...]:
    true, whole = true_l0(config), ARCHITECTURES[config.sae.kind].whole_k
    values = (float(round(true * f, 0 if whole else 2)) for f in L0_FACTORS)
    return (Axis("sae.k", tuple(dict.fromkeys(values))),)


def _cosine(config: TrainConfig) -> tuple[Axis, ...]:
    if config.plant.enabled:
        return (Axis("plant.parent-child-cosine", COSINES),)
    if config.activations == "synthetic":
        return (Axis("synthetic.parent-child-cosine", COSINES),)
    raise ConfigError(
        f"--grid cosine was given with --activations {config.activations}, but a known hierarchy "
        "was expected; add --plant."
    )


def _every(option: str, *values: Any) -> Callable[[TrainConfig], tuple[Axis, ...]]:
    return lambda config: (Axis(option, values),)


def _choices(option: str) -> Callable[[TrainConfig], tuple[Axis, ...]]:
    return _every(option, *choices(option_types()[option]))


def _stability(config: TrainConfig) -> tuple[Axis, ...]:
    return Axis("penalty.tau", ("fixed", "stability")), Axis("penalty.refresh-every", (1, 5, 20))


def _criteria(config: TrainConfig) -> tuple[Axis, ...]:
    """Returns every criterion that ranks pairs by a score; those that draw them are arms."""
    ranking = [c.name for c in CRITERIA if not c.draws]
    return (Axis("pairs.criterion", tuple(ranking)),)


GRIDS: dict[str, Grid] = {
    "tau": Grid("fixed against adaptive τ, all six policies", _choices("penalty.tau")),
    "efficiency": Grid(
        "what is removed and what it costs, over the penalty's coefficient", _coefficients
    ),
    "stability": Grid(
        "how pairs come back: weighted by their history, selected more or less often", _stability
    ),
    "fraction": Grid(
        "the top-k threshold, from 0.05 % to 2 % of all pairs",
        _every("pairs.fraction", 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02),
    ),
    "criteria": Grid(
        "which score chooses the pairs",
        _criteria,
    ),
    "gradient": Grid("which of a pair's rows moves", _choices("penalty.gradient")),
    "schedule": Grid(
        "0.1 % constant against 0.1 % to 0.5 %, linear and exponential",
        _choices("pairs.schedule"),
        needs=(("pairs.fraction", 0.001), ("pairs.final-fraction", 0.005)),
    ),
    "l0": Grid("L0 from half to twice the true one", _l0),
    "cosine": Grid("true directions of parent and child that overlap", _cosine),
}


def choose(
    config: TrainConfig, *, grid: str, vary: Sequence[str]
) -> tuple[TrainConfig, tuple[Axis, ...]]:
    """The base, with what the ready-made grid needs, and all axes.

    Raises:
        ConfigError: no grid of that name, one that does not fit, or an axis given twice.
    """
    axes = [parse_axis(text) for text in vary]
    if grid:
        if grid not in GRIDS:
            raise ConfigError(
                f"--grid {grid} was given, but one of {', '.join(GRIDS)} was expected"
                f"{nearest(grid, list(GRIDS))}; or write the axes with --vary."
            )
        config = with_values(config, dict(GRIDS[grid].needs))
        axes = [*GRIDS[grid].axes(config), *axes]
    options = [axis.option for axis in axes]
    for option in options:
        if options.count(option) > 1:
            raise ConfigError(
                f"--vary {option} was given twice, by itself or by --grid, but an axis has one "
                "list of values; join them."
            )
    return config, tuple(axes)
