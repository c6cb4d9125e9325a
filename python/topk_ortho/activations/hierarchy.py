"""Known hierarchies: which features fire together, in which directions, how strongly.

A hierarchy is a set of roots (parents), each with children of which at most one fires, and only
when the root does. Synthetic forests and planted features are both made of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from topk_ortho.activations.source import GroundTruth


@dataclass(frozen=True)
class Hierarchy:
    """Roots first, then the children of each root in turn, then independent features.

    Attributes:
        truth: directions and parents.
        root_rate: `[roots]` firing rates.
        independent_rate: `[independent]` firing rates.
        children: children per root.
        child_probability: P(some child on | root on).
        sibling_share: `[children]`, adds up to 1.
        magnitude_mean: mean of |N(mean, std)|.
        magnitude_std: its standard deviation.
    """

    truth: GroundTruth
    root_rate: Tensor
    independent_rate: Tensor
    children: int
    child_probability: float
    sibling_share: Tensor
    magnitude_mean: float
    magnitude_std: float

    def sample(self, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns `(fired [rows, n_true] bool, x [rows, d_in])`; x sums the features that fire."""
        fired = self._fired(rows, generator)
        row, feature = fired.nonzero(as_tuple=True)
        magnitude = torch.randn(row.numel(), generator=generator)
        magnitude = magnitude.mul_(self.magnitude_std).add_(self.magnitude_mean).abs_()
        code = torch.zeros(fired.shape)
        code[row, feature] = magnitude
        return fired, code @ self.truth.directions

    def _fired(self, rows: int, generator: torch.Generator) -> Tensor:
        root = torch.rand(rows, self.root_rate.numel(), generator=generator) < self.root_rate
        parts = [root]
        if self.children:
            some = torch.rand(root.shape, generator=generator) < self.child_probability
            pick = torch.rand(root.shape, generator=generator)
            child = torch.searchsorted(self.sibling_share.cumsum(0)[:-1].contiguous(), pick)
            on = torch.nn.functional.one_hot(child, self.children).bool()
            parts.append((on & (root & some)[..., None]).flatten(1))
        if self.independent_rate.numel():
            shape = (rows, self.independent_rate.numel())
            parts.append(torch.rand(shape, generator=generator) < self.independent_rate)
        return torch.cat(parts, 1)


def build_hierarchy(
    *,
    d_in: int,
    roots: int,
    children: int,
    root_rates: tuple[float, float],
    independent: int = 0,
    independent_rates: tuple[float, float] = (1.0, 1.0),
    child_probability: float,
    sibling_exponent: float,
    parent_child_cosine: float,
    magnitude_mean: float,
    magnitude_std: float,
    seed: int,
) -> Hierarchy:
    """Returns normalised Gaussian directions; rates geometric from the first to the last."""
    generator = torch.Generator().manual_seed(seed)
    total = roots * (1 + children) + independent
    directions = torch.randn(total, d_in, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    parent = torch.full((total,), -1)
    parent[roots : roots * (1 + children)] = torch.arange(roots).repeat_interleave(children)
    if parent_child_cosine:
        has_parent = parent >= 0
        up, own = directions[parent[has_parent]], directions[has_parent]
        own = own - (own * up).sum(1, keepdim=True) * up
        own = own / own.norm(dim=1, keepdim=True)
        c = parent_child_cosine
        directions[has_parent] = c * up + (1 - c * c) ** 0.5 * own
    share = torch.arange(1, children + 1).double() ** -sibling_exponent
    return Hierarchy(
        truth=GroundTruth(directions, parent),
        root_rate=_geometric(roots, *root_rates),
        independent_rate=_geometric(independent, *independent_rates),
        children=children,
        child_probability=child_probability,
        sibling_share=(share / share.sum()).float(),
        magnitude_mean=magnitude_mean,
        magnitude_std=magnitude_std,
    )


def _geometric(n: int, first: float, last: float) -> Tensor:
    return torch.logspace(0, 1, n, base=last / first).mul(first) if n else torch.empty(0)


def stream_seed(*parts: int) -> int:
    """Returns one 63-bit seed from several numbers (splitmix64), so that streams do not overlap."""
    state = 0
    for part in parts:
        state = (state + 0x9E3779B97F4A7C15 + part) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1
