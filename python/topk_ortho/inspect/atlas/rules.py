"""The rules by which a candidate pair becomes an edge; their thresholds were fixed beforehand.

Each child has at most one parent by each rule, the best of its column. Rule A asks for a raised
variance of what the pair leaves out, rule B for a parent that is there and an encoder that takes
the child off it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from topk_ortho.inspect.atlas.statistics import Statistics

Tier = Literal["both", "variance", "strength"]

LEAST_COSINE = 0.1
LEAST_Y = 0.35
LEAST_Y_STRENGTH = 0.55
LEAST_COSINE_STRENGTH = 0.35
LEAST_INTERCEPT_STRENGTH = 0.1
LEAST_HOLE = 0.3
MOST_SHARED = 0.5
"""Share of a parent's tokens on which the child fires, above which it is the parent that is the
special one."""


@dataclass(frozen=True)
class Edge:
    """A parent that may be silent where its child fires, and the evidence (`Statistics`).

    Attributes:
        tier: by which rules: `variance` is A, `strength` is B.
        score: the rank, by `min(z, 8) min(y_ratio, 1)`.
        silent_share: share of the child's tokens on which the parent is silent.
        n_tokens: those tokens; `n_flagged` of them the parent is there at half its strength.
        rate_parent, rate_child: shares of all tokens on which each fires.
        cofires: tokens on which both fire.
        runner_up, runner_up_score: the next best parent by V times cosine, None for none.
    """

    parent: int
    child: int
    tier: Tier
    score: float
    z: float
    V: float
    cosine: float
    y_ratio: float
    intercept: float
    hole: float
    silent_share: float
    n_tokens: int
    n_flagged: int
    rate_parent: float
    rate_child: float
    cofires: int
    runner_up: int | None
    runner_up_score: float | None


Place = tuple[int, int]
"""A child, and the place of the parent among its candidates."""


def find_edges(s: Statistics, *, rows: int, least_z: float) -> tuple[Edge, ...]:
    """Returns the edges, best first.

    Args:
        s: of all candidate pairs.
        rows: tokens that they are of.
        least_z: of rule A.
    """
    allowed = s.judged & (s.cosine > LEAST_COSINE)
    variance = _oriented(s, _by_variance(s, allowed, least_z))
    strength = _by_strength(s, allowed)
    tiers: dict[Place, Tier] = dict.fromkeys(strength, "strength")
    for place in variance:
        tiers[place] = "both" if place in tiers else "variance"
    edges = [_edge(s, place, tier, allowed, rows=rows) for place, tier in tiers.items()]
    return tuple(sorted(edges, key=lambda e: (-e.score, e.parent, e.child)))


def _by_variance(s: Statistics, allowed: Tensor, least_z: float) -> list[Place]:
    """Rule A: the winner of each column by V times cosine, where it passes."""
    child, at = _winners((s.V * s.cosine).masked_fill(~allowed, -torch.inf))
    z = s.z[child, at]
    passed = (z >= least_z) & (z > s.opposite[child])
    passed &= (s.y_ratio[child, at] >= LEAST_Y) & (s.intercept[child, at] > 0)
    return list(zip(child[passed].tolist(), at[passed].tolist(), strict=True))


def _by_strength(s: Statistics, allowed: Tensor) -> list[Place]:
    """Rule B: the winner of each column by y_ratio, among pairs that are the stronger way round."""
    stronger = allowed & ~(s.y_ratio < s.reverse)
    child, at = _winners(s.y_ratio.masked_fill(~stronger, -torch.inf))
    passed = (s.y_ratio[child, at] >= LEAST_Y_STRENGTH) & (s.hole[child, at] > LEAST_HOLE)
    passed &= s.intercept[child, at] > LEAST_INTERCEPT_STRENGTH
    passed &= s.cosine[child, at] > LEAST_COSINE_STRENGTH
    return list(zip(child[passed].tolist(), at[passed].tolist(), strict=True))


def _winners(score: Tensor) -> tuple[Tensor, Tensor]:
    """Children that have a candidate, and the place of their best one."""
    best, at = score.max(1)
    child = (best > -torch.inf).nonzero().flatten()
    return child, at[child]


def _oriented(s: Statistics, places: list[Place]) -> list[Place]:
    """Drops edges whose parent is the special one, and one of each two that point at each other."""
    kept = {
        (int(s.parent[c, k]), c): k
        for c, k in places
        if float(s.co_firing[c, k]) <= MOST_SHARED * float(s.n[s.parent[c, k]])
    }
    wins: dict[int, float] = defaultdict(float)
    for (p, c), k in kept.items():
        wins[p] += float(s.z[c, k])
    out = []
    for (p, c), k in kept.items():
        back = kept.get((c, p))
        if back is not None:
            own = (wins[p] - float(s.z[c, k]), float(s.n[p]), -p)
            other = (wins[c] - float(s.z[p, back]), float(s.n[c]), -c)
            if own < other:
                continue
        out.append((c, k))
    return out


def _edge(s: Statistics, place: Place, tier: Tier, allowed: Tensor, *, rows: int) -> Edge:
    c, k = place
    p = int(s.parent[place])
    others = (s.V[c] * s.cosine[c]).masked_fill(~allowed[c], -torch.inf)
    others[k] = -torch.inf
    best, at = others.max(0)
    second = bool(best > -torch.inf)
    z, y_ratio = float(s.z[place]), float(s.y_ratio[place])
    return Edge(
        parent=p,
        child=c,
        tier=tier,
        score=min(z, 8.0) * min(y_ratio, 1.0),
        z=z,
        V=float(s.V[place]),
        cosine=float(s.cosine[place]),
        y_ratio=y_ratio,
        intercept=float(s.intercept[place]),
        hole=float(s.hole[place]),
        silent_share=float(s.n_T[place] / s.n[c]),
        n_tokens=int(s.n_T[place]),
        n_flagged=int(s.flagged[place]),
        rate_parent=float(s.n[p] / rows),
        rate_child=float(s.n[c] / rows),
        cofires=int(s.co_firing[place]),
        runner_up=int(s.parent[c, at]) if second else None,
        runner_up_score=float(best) if second else None,
    )
