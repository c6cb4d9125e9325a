"""The package's own selection and penalty, put together by hand: what a drop-in has to equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from topk_ortho import OrthogonalityPenalty, PairSelection, PairSelector
from topk_ortho.config import DEFAULT_CRITERION, PenaltyConfig
from topk_ortho.constraint.criteria import CRITERIA
from topk_ortho.integrations import OrthogonalityConfig

D_IN, D_SAE, BATCH = 16, 48, 64
HOW = "is not installed; `make test-integrations` runs this where it is"

# From the first step on, so that one step shows everything.
AT_ONCE = OrthogonalityConfig(penalty=PenaltyConfig(ramp=0.0))


def host(name: str) -> Any:
    """The package of a host, or a skip."""
    return pytest.importorskip(name, reason=f"{name} {HOW}")


def batch(seed: int = 0, *, rows: int = BATCH, d: int = D_IN) -> Tensor:
    """Activations `[rows, d]` with a mean and a common direction, so that decoder rows overlap."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, d, generator=generator)
    return x + 2 * torch.rand(rows, 1, generator=generator) * torch.ones(d) + 0.5


def codes(seed: int = 0, *, rows: int = BATCH) -> Tensor:
    """Dense codes `[rows, D_SAE]`, about a quarter of them active."""
    generator = torch.Generator().manual_seed(seed)
    acts = torch.randn(rows, D_SAE, generator=generator) - 0.7
    return acts.relu()


def decoder(seed: int = 0, *, unit: bool = True, d: int = D_IN) -> Tensor:
    """Rows `[D_SAE, d]` with a common part; of norms from 0.5 to 3 unless `unit`."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(D_SAE, d, generator=generator) + 0.7
    rows = rows / rows.norm(dim=1, keepdim=True)
    if not unit:
        rows = rows * torch.empty(D_SAE, 1).uniform_(0.5, 3, generator=generator)
    return rows.requires_grad_()


def expected(
    acts: Tensor, W_dec: Tensor, *, variance: float, weight: float = 1.0
) -> tuple[PairSelection, Tensor, Tensor]:
    """Pairs, penalty and its gradient `[d_sae, d]` of a first step at the default settings.

    Args:
        acts: `[batch, d_sae]` codes of unit rows.
        W_dec: `[d_sae, d]`.
        variance: total variance of the data.
        weight: a further factor.
    """
    pairs = PairSelector(DEFAULT_CRITERION, per_feature=2.5)(acts)
    rate = (acts.to_dense() > 0).float().mean(0)
    rows = W_dec.detach().clone().requires_grad_()
    penalty = OrthogonalityPenalty(gradient="child_only")
    coefficient = CRITERIA[DEFAULT_CRITERION].coefficient * variance * weight
    cost = penalty(rows, pairs, firing_rate=rate, coefficient=coefficient)
    cost.backward()
    assert cost > 0
    return pairs, cost.detach(), rows.grad


def same_pairs(a: PairSelection | None, b: PairSelection) -> None:
    """Equal pairs with equal scores, in equal order."""
    assert a is not None
    assert len(a) > 0
    assert torch.equal(a.i, b.i)
    assert torch.equal(a.j, b.j)
    assert torch.equal(a.score, b.score)
