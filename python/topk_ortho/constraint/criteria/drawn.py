"""Criteria that draw their pairs: two controls, a list of pairs, and those of OrtSAE and C²R.

What draws them is imported when it is called, since it needs torch and the records do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from topk_ortho.constraint.criteria.coactive import of_unit_row
from topk_ortho.constraint.criteria.criterion import CoactiveSum, Criterion, Drawn

if TYPE_CHECKING:
    from topk_ortho.constraint.criteria.inputs import SelectorInputs
    from topk_ortho.constraint.selection.selection import PairSelection

    Select = Callable[[CoactiveSum, int], PairSelection]


def uniform(e: SelectorInputs, k: int, seed: int, select: Select) -> PairSelection:
    """Returns k pairs drawn uniformly at random."""
    from topk_ortho.constraint.criteria.uniform import uniform_pairs

    return uniform_pairs(e, k, seed=seed)


def matched(e: SelectorInputs, k: int, seed: int, select: Select) -> PairSelection:
    """Returns pairs of like firing rates as those of `row-coactivation`, and none of them."""
    from topk_ortho.constraint.criteria.matched import matched_pairs

    return matched_pairs(select(CoactiveSum(of_unit_row), k), e.codes.counts(), seed=seed)


def chunked(e: SelectorInputs, k: int, seed: int, select: Select) -> PairSelection:
    """Returns each feature's nearest in its random chunk, one pair per feature whatever `k`."""
    from topk_ortho.constraint.criteria.ortsae import ortsae_pairs

    return ortsae_pairs(e, seed=seed)


def listed(e: SelectorInputs, k: int, seed: int, select: Select) -> PairSelection:
    """Returns the pairs of the list that the selector was given, whatever the codes."""
    from topk_ortho.constraint.criteria.listed import listed_pairs

    return listed_pairs(e)


RECORDS = (
    Criterion("random", "uniform; a control", Drawn(uniform), coefficient=1.0),
    Criterion(
        "rate-matched-random",
        "as many pairs of like rates as `row-coactivation` chooses, and none of those; the sharper "
        "control",
        Drawn(matched, label="codes"),
        coefficient=1.0,
    ),
    Criterion(
        "given",
        "the pairs of a list, such as those of an atlas",
        Drawn(listed, label="list"),
        coefficient=2.0,
        own_size=True,
        listed=True,
    ),
    Criterion(
        "ortsae",
        "for each feature, the largest cosine within its random chunk (OrtSAE 2025)",
        Drawn(chunked, label="chunks"),
        required_inputs=frozenset({"W_dec"}),
        coefficient=0.1,
        own_size=True,
        # Of two features it would list the one pair twice.
        least_features=3,
    ),
    Criterion(
        "c2r",
        "the pairs of `ortsae`, each weighed by the norms of its activations (C²R 2026)",
        Drawn(chunked, label="chunks"),
        required_inputs=frozenset({"W_dec"}),
        coefficient=5.0,
        own_size=True,
        least_features=3,
        pair_weight="activity",
    ),
)
