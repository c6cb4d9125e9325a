"""Statistics of arms that are paired by seed: intervals, margins, corrections, verdicts.

Every function takes a metric of an arm as `{seed: value}`; pairs are the seeds that both arms
have a finite value for. What cannot be said is None (or "unavailable"), never 0 or NaN: a value
that is missing, None or not finite drops its pair, and fewer than two pairs give no interval.
"""

from topk_ortho.statistics.claims import (
    MARGIN_EXPLAINED_VARIANCE,
    NonInferiority,
    holm,
    non_inferior,
    reduction_per_percent,
    verdict,
)
from topk_ortho.statistics.differences import (
    CONFIDENCE,
    Difference,
    Mean,
    finite,
    mean,
    mean_of_all,
    paired,
)
from topk_ortho.statistics.ratios import (
    L0_TOLERANCE,
    l0_matched,
    relative_change,
    relative_reduction,
)

__all__ = [
    "CONFIDENCE",
    "L0_TOLERANCE",
    "MARGIN_EXPLAINED_VARIANCE",
    "Difference",
    "Mean",
    "NonInferiority",
    "finite",
    "holm",
    "l0_matched",
    "mean",
    "mean_of_all",
    "non_inferior",
    "paired",
    "reduction_per_percent",
    "relative_change",
    "relative_reduction",
    "verdict",
]
