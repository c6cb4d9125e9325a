"""Whether a configuration can be used: the one place that checks all of it.

The rules of a table stand beside its dataclass; here are those that two tables have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from topk_ortho.config.error import ConfigError, require
from topk_ortho.config.option import When, check_ranges, without_effect
from topk_ortho.config.pairs import check_pairs
from topk_ortho.config.sae import check_sae
from topk_ortho.config.toml import from_table, to_table
from topk_ortho.config.train import OF_A_LANGUAGE_MODEL, TrainConfig, check_data

NAMES_A_SOURCE = (*OF_A_LANGUAGE_MODEL, "data", "init_sha256", "allow_pickle")
"""Options that nobody sets without meaning them, so that they have an effect or are refused."""


def check(c: TrainConfig) -> TrainConfig:
    """Returns the configuration with its names as the options have them.

    Raises:
        ConfigError: a setting is out of range or contradicts another one.
    """
    c = from_table(to_table(c))  # names as the options have them, values of the right type
    check_ranges(c)
    check_effect({n.replace("_", "-"): "" for n in NAMES_A_SOURCE if getattr(c, n)}, c)
    check_sae(c.sae)
    check_pairs(c.pairs)
    _check_ortsae(c)
    require(
        c.penalty.tau != "stability" or c.history.enabled,
        "--penalty.tau stability was given without a history",
        "it weighs pairs by their history",
        "leave --history.no-enabled out, or take another --penalty.tau",
    )
    check_data(c)
    return c


def check_effect(given: Mapping[str, str], *configs: Any) -> None:
    """Refuse an option that was given and has no effect.

    Args:
        given: names of options, such as `sae.bandwidth`, and the file that each stands in; empty
            for those of the command line.
        configs: what they came to: a command's options, a configuration, or those of several arms,
            of which one has to use the option.

    Raises:
        ConfigError: the first one.
    """
    for name, condition in without_effect(given, *configs):
        shown = f"{name} in {given[name]}" if given[name] else f"--{name}"
        now = condition.now(configs[0])
        raise ConfigError(
            f"{shown} was given, but it has no effect with {now}; leave it out, or give "
            f"{_wanted(condition)}."
        )


def _wanted(condition: When) -> str:
    """What gives an option its effect."""
    name = f"--{condition.option}"
    if condition.values_now() == (None,):
        return f"{name} too"
    if not condition.wanted:
        return f"another {name}"
    return " or ".join(condition.shown(value) for value in condition.values_now())


def _check_ortsae(c: TrainConfig) -> None:
    if c.pairs.criterion != "ortsae":
        return
    for name in ("fraction", "per-feature", "max-pairs"):
        size = getattr(c.pairs, name.replace("-", "_"))
        require(
            size is None,
            f"--pairs.{name} {size} was given with --pairs.criterion ortsae",
            "it takes one pair per feature",
            "leave it out",
        )
    require(
        c.sae.d_sae > 2,
        f"--sae.d-sae {c.sae.d_sae} was given with --pairs.criterion ortsae",
        "it lists a pair once for each of its features, and there is only one pair",
        "give --sae.d-sae 3 or more",
    )
