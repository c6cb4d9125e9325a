"""The default options of a repair (docs/repair.md has the measurements)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from topk_ortho.config import DEFAULT_CRITERION
from topk_ortho.config.registry import CRITERIA
from topk_ortho.config.sources import SOURCES
from topk_ortho.formats.stored import StoredSAE
from topk_ortho.inspect.evaluate.asked import data_options, run_config, without_data

DEFAULTS: Mapping[str, Any] = {"steps": 400, "warmup-steps": 20}
"""Of a repair, where they differ from those of a training."""
PENALTY: Mapping[str, Any] = {"penalty.coefficient": 12.0, "penalty.threshold": 0.1}
"""Of the default criterion and those of its coefficient: strong, since absorption is there already,
and with a threshold, since without one, directions that merely crowd each other are moved as well,
at once and at a cost."""
STAND_IN_K = 1.0
"""k of an SAE whose files do not say it, until its mean L0 has been measured."""


def defaults(stored: StoredSAE, *, given: Collection[str], criterion: str | None) -> dict[str, Any]:
    """Returns the values of options that a repair has unless they are given.

    Args:
        stored: the SAE; its hook point is taken with a language model.
        given: names of all options that were given, also in a file.
        criterion: the one that was given, None where none was.
    """
    found = dict(DEFAULTS)
    usual = {c.name for c in CRITERIA if c.coefficient == CRITERIA[DEFAULT_CRITERION].coefficient}
    if "recipe" not in given and (criterion is None or criterion in usual):
        found |= PENALTY
    if "model" in given and stored.hook:
        found["hook"] = stored.hook
    if stored.k is None:
        found["sae.k"] = STAND_IN_K
    return found


def own_data(sae: Path, *, given: Collection[str]) -> dict[str, Any]:
    """Returns the options of a run's own data, where no data is given for its SAE.

    Args:
        sae: the SAE to repair.
        given: names of all options that were given, also in a file.

    Raises:
        ConfigError: no data is given, and it is no run folder.
    """
    words = {"activations", *(word for kind in SOURCES for word in kind.options)}
    if any(name.partition(".")[0].replace("-", "_") in words for name in given):
        return {}
    run = run_config(sae)
    if run is None:
        raise without_data(sae)
    return data_options(run)
