"""The criteria by which pairs are chosen: one record each, one file per family.

To add one: a `Criterion` given to `register_criterion`. Its name is then a value of
`pairs.criterion`, and its inputs, coefficient and line of documentation follow it everywhere.
Imports no torch.
"""

from topk_ortho.config.registry import CRITERIA
from topk_ortho.constraint.criteria import all_pairs, coactive, drawn, one_per_feature
from topk_ortho.constraint.criteria.criterion import (
    INPUTS,
    AllPairs,
    CoactiveSum,
    Criterion,
    Drawn,
    Form,
    OnePerFeature,
    Tiles,
    register_criterion,
)

for _record in (
    *coactive.RECORDS,
    *one_per_feature.RECORDS,
    *all_pairs.RECORDS,
    *drawn.RECORDS,
):
    register_criterion(_record)

__all__ = [
    "CRITERIA",
    "INPUTS",
    "AllPairs",
    "CoactiveSum",
    "Criterion",
    "Drawn",
    "Form",
    "OnePerFeature",
    "Tiles",
    "register_criterion",
]
