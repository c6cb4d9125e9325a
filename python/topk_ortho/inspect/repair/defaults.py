"""The default options of a repair (docs/repair.md has the measurements)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from topk_ortho.config import DEFAULT_CRITERION
from topk_ortho.config.registry import CRITERIA
from topk_ortho.formats.stored import StoredSAE

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
