"""Criteria that are products of one value per feature."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from topk_ortho.constraint.criteria.criterion import Criterion, OnePerFeature

if TYPE_CHECKING:
    from torch import Tensor

    from topk_ortho.constraint.criteria.inputs import SelectorInputs


def mean_activation(e: SelectorInputs) -> Tensor:
    """Returns `[d_sae]` float32, the vector of `magnitude`."""
    return (e.codes.column_sums(e.codes.value.double()) / max(1, e.codes.batch)).float()


def relative_energy(e: SelectorInputs) -> Tensor:
    """Returns `[d_sae]` float32, for `gradient-accumulated`: root energy over the largest."""
    root = e.need("energy", (e.codes.d_sae,)).double().sqrt()
    return (root / root.max().clamp_min(sys.float_info.min)).float()


RECORDS = (
    Criterion(
        "gradient-accumulated",
        "`s_i s_j`, `s` the root of a moving average (.99) of `Σ_b g_bi²`, over its largest",
        OnePerFeature(relative_energy),
        required_inputs=frozenset({"energy"}),
    ),
    Criterion("magnitude", "`m_i m_j`, `m` the mean activation", OnePerFeature(mean_activation)),
)
