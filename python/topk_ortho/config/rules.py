"""The checks of a configuration: the one place that runs all of them.

The rules of a table stand beside its dataclass; here are those that two tables have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from topk_ortho.config.errors import ConfigError, require
from topk_ortho.config.history import HistoryConfig
from topk_ortho.config.option import When, check_ranges, without_effect
from topk_ortho.config.pairs import PairsConfig, check_criterion, check_pairs
from topk_ortho.config.penalty import PenaltyConfig, check_pair_weight
from topk_ortho.config.sae import check_sae
from topk_ortho.config.toml import canonical
from topk_ortho.config.train import OF_A_LANGUAGE_MODEL, TrainConfig, check_data

NAMES_A_SOURCE = (*OF_A_LANGUAGE_MODEL, "tokens", "leave_out", "skip_positions", "chat_roles",
                  "eval_contexts", "max_norm", "data", "init_sha256", "allow_pickle")  # fmt: skip
"""Options that are only ever set on purpose, so that they have an effect or are refused."""


def check(c: TrainConfig) -> TrainConfig:
    """Returns the configuration with normalised names, as the options have them.

    Raises:
        ConfigError: a setting is out of range or contradicts another one.
    """
    c = canonical(c)
    check_ranges(c)
    check_effect({n.replace("_", "-"): "" for n in NAMES_A_SOURCE if getattr(c, n)}, c)
    check_sae(c.sae)
    check_constraint(c, d_sae=c.sae.d_sae)
    check_data(c)
    return c


class ConstraintSettings(Protocol):
    """The settings of a constraint, in a run or in another package's loop."""

    @property
    def pairs(self) -> PairsConfig: ...
    @property
    def penalty(self) -> PenaltyConfig: ...
    @property
    def history(self) -> HistoryConfig: ...


def check_constraint(c: ConstraintSettings, *, d_sae: int | None = None) -> None:
    """Refuse settings of a constraint that contradict each other.

    Args:
        c: the settings, whose names are as the options have them and whose numbers are in range.
        d_sae: number of features, where it is known.

    Raises:
        ConfigError: the settings contradict each other.
    """
    check_pairs(c.pairs)
    check_criterion(c.pairs, d_sae)
    check_pair_weight(c.pairs, c.penalty)
    require(
        c.penalty.tau != "stability" or c.history.enabled,
        "--penalty.tau stability was given without a history",
        "it weighs pairs by their history",
        "leave --history.no-enabled out, or take another --penalty.tau",
    )


def check_effect(given: Mapping[str, str], *configs: Any) -> None:
    """Refuse an option that was given and has no effect.

    Args:
        given: names of options, such as `sae.bandwidth`, and the file that sets each; empty
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
    """Returns what gives an option its effect."""
    name = f"--{condition.option}"
    if condition.values_now() == (None,):
        return f"{name} too"
    if not condition.wanted:
        return f"another {name}"
    return " or ".join(condition.shown(value) for value in condition.values_now())
