"""The health gate: whether an absorption metric is believable. Imports no torch.

An SAE that hardly trained scores near 0 on absorption: nothing fires, so nothing is absorbed. The
gate marks such metrics as invalid, and absorption is shown only beside what the gate rests on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from topk_ortho.statistics import finite

MIN_EXPLAINED_VARIANCE = 0.5
MIN_CE_SCORE = 0.9
MOST_OF_THE_VARIANCE = 0.5
"""Share in the loudest one percent of the rows from which that is said."""

BESIDE = ("explained_variance", "l0", "dead_features")
"""Metrics without which absorption is never shown."""

_ABSORPTION = {"excess", "base_miss", "partial", "decoder_leak", "encoder_hole"}


def is_absorption(name: str) -> bool:
    """Returns whether a metric needs the health gate."""
    return name.startswith("absorption") or name in _ABSORPTION


def health(result: Mapping[str, Any]) -> str | None:
    """Returns why the absorption metrics of a result mean nothing, None where they may be read.

    Args:
        result: metrics by name; `explained_variance` is required, `explained_variance_quiet_rows`
            and `ce_score` count where they were measured. What is no number counts as not measured.
    """
    reasons = []
    quiet = _number(result.get("explained_variance_quiet_rows"))
    variance, ce_score = _number(result.get("explained_variance")), _number(result.get("ce_score"))
    if variance is None:
        reasons.append("explained variance was not measured")
    elif not variance >= MIN_EXPLAINED_VARIANCE:
        reasons.append(f"explained variance {variance:.3f} is below {MIN_EXPLAINED_VARIANCE}")
    elif quiet is not None and not quiet >= MIN_EXPLAINED_VARIANCE:
        reasons.append(
            f"explained variance {quiet:.3f} without the loudest 1 % of the rows is below "
            f"{MIN_EXPLAINED_VARIANCE}"
        )
    if ce_score is not None and not ce_score >= MIN_CE_SCORE:
        reasons.append(f"CE score {ce_score:.3f} is below {MIN_CE_SCORE}")
    return " and ".join(reasons) or None


def loud(result: Mapping[str, Any]) -> str | None:
    """Returns a sentence where few loud rows make most of the variance, None elsewhere.

    Explained variance and the pairs' scores then speak of those rows, even where the SAE is healthy
    without them.

    Args:
        result: metrics by name, of which `variance_share_top_rows` counts where it was measured.
    """
    share = _number(result.get("variance_share_top_rows"))
    if share is None or not share > MOST_OF_THE_VARIANCE:
        return None
    quiet = _number(result.get("explained_variance_quiet_rows"))
    without = "" if quiet is None else f" ({quiet:.3f} without them)"
    return (
        f"the loudest 1 % of the rows, at least one, make {share:.0%} of the variance, so that "
        f"explained variance is mostly theirs{without}; --max-norm 10 leaves such rows out"
    )


def gate(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the health as JSON: `healthy`, `reason`, `limits`, and the names of the metrics that
    are `invalid`."""
    reason = health(result)
    measured = [name for name, value in result.items() if value is not None]
    return {
        "healthy": reason is None,
        "reason": reason,
        "limits": {"explained_variance": MIN_EXPLAINED_VARIANCE, "ce_score": MIN_CE_SCORE},
        "invalid": sorted(name for name in measured if reason and is_absorption(name)),
    }


def _number(value: Any) -> float | None:
    """A number, NaN included: a variance that is NaN was measured and is not healthy."""
    return value if isinstance(value, float) else finite(value)
