"""What each criterion sees of an absorption that goes from none (δ = 0) to full (δ = 1).

Orthonormal parent g1 and child g2, encoder e1 = g1 - δ g2, decoder d2 = g2 + δ g1: reconstruction
is perfect for every δ, so only a criterion can tell (method 2).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from topk_ortho import PairSelector
from topk_ortho.constraint.penalty import OrthogonalityPenalty

DELTAS = (0.0, 0.25, 0.5, 0.75, 1.0)
ROWS, ALONE, BOTH = 400, 100, 60
PARENT, CHILD = 2, 5


def family(delta: float) -> tuple[Tensor, Tensor]:
    """`(acts [ROWS, 8], W_dec [8, 8])`; the other features are independent noise."""
    generator = torch.Generator().manual_seed(4)
    g = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0].T
    code = (torch.rand(ROWS, 8, generator=generator) < 0.1).float()
    code[:, [PARENT, CHILD]] = 0
    code[:ALONE, PARENT] = 1
    code[:BOTH, CHILD] = 1
    x = code @ g
    W_enc, W_dec = g.clone(), g.clone()
    W_enc[PARENT] -= delta * g[CHILD]
    W_dec[CHILD] += delta * g[PARENT]
    acts = torch.relu(x @ W_enc.T - 1e-5)
    torch.testing.assert_close(acts @ W_dec, x, rtol=0, atol=1e-3)
    return acts, W_dec


def score(criterion: str, delta: float) -> float:
    """Score of (parent, child), sums as a mean over rows; 0 where the pair is absent."""
    acts, W_dec = family(delta)
    got = PairSelector(criterion, fraction=1.0)(acts, W_dec=W_dec)
    at = ((got.i == PARENT) & (got.j == CHILD)).nonzero()
    value = float(got.score[at]) if at.numel() else 0.0
    return value / ROWS if criterion == "coactivation" else value


@pytest.mark.parametrize("delta", DELTAS)
def test_coactivation_falls_with_the_share_that_is_absorbed(delta: float) -> None:
    p = BOTH / ROWS
    assert score("coactivation", delta) == pytest.approx(p * (1 - delta), abs=1e-4)


def test_coactivation_is_blind_to_full_absorption() -> None:
    seen = [score("coactivation", delta) for delta in DELTAS]
    assert seen == sorted(seen, reverse=True)
    assert seen[0] > seen[-2] > 0
    assert seen[-1] == 0


@pytest.mark.parametrize("delta", DELTAS)
def test_decoder_cosine_grows_with_it(delta: float) -> None:
    assert score("decoder-cosine", delta) == pytest.approx(delta / (1 + delta**2) ** 0.5, abs=1e-6)


def test_coactive_cosine_grows_until_the_parent_is_silent() -> None:
    seen = [score("coactive-cosine", delta) for delta in DELTAS]
    assert seen[:4] == sorted(seen[:4])
    assert seen[3] == pytest.approx(0.6, abs=1e-6)
    assert seen[4] == 0


def test_the_penalty_pulls_the_child_back_while_the_pair_is_seen() -> None:
    """Its gradient on the child's row is along the parent: a step against it lowers δ."""
    for delta in (0.25, 0.5, 0.75):
        acts, W_dec = family(delta)
        selection = PairSelector("coactivation", fraction=1.0)(acts)
        W_dec.requires_grad_()
        rate = (acts > 0).float().mean(0)
        OrthogonalityPenalty(0.1)(W_dec, selection, firing_rate=rate).backward()
        along = W_dec.grad[CHILD] @ W_dec.detach()[PARENT]
        assert along > 0
        assert W_dec.grad[PARENT].abs().max() < 1e-6
