"""How far dictionaries of different seeds hold the same directions.

PW-MCC (Song et al. 2025, arXiv 2505.20254): the mean cosine of decoder rows under the one-to-one
assignment of two dictionaries with the largest sum. `nearest` leaves one-to-one out: the mean over
rows of the largest cosine with a row of the other, in both directions. Signs count, since codes
are not negative. Rows of dead features count as well.

Costs a float64 matrix `[d_sae, d_sae]` per comparison, and its assignment is cubic in `d_sae`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from topk_ortho.metrics.matching import assign, cosines

Null = Literal["rotation", "reflection"]


@dataclass(frozen=True)
class Agreement:
    """What two dictionaries have in common; both numbers are 1 for a permutation of the same rows.

    Attributes:
        mcc: mean cosine of the one-to-one assignment.
        nearest: mean largest cosine, of both directions.
    """

    mcc: float
    nearest: float


@dataclass(frozen=True)
class SeedAgreement:
    """The agreement of several dictionaries, and what chance gives.

    Attributes:
        pairs: of every two dictionaries, in the order of `itertools.combinations`.
        null: of as many comparisons as were asked for, each with one of two turned at random.
    """

    pairs: tuple[Agreement, ...]
    null: tuple[Agreement, ...]


def agreement(a: Tensor, b: Tensor) -> Agreement:
    """Returns the agreement of two dictionaries.

    Args:
        a: `[n, d_in]`, rows of any norm.
        b: `[m, d_in]`; where m is not n, the larger has rows without a partner, left out of `mcc`.

    Raises:
        ValueError: widths differ, or a value is not finite.
    """
    cosine = cosines(a, b)
    matched = assign(cosine)[1]
    nearest = (cosine.amax(0).mean() + cosine.amax(1).mean()) / 2
    return Agreement(float(matched.nanmean()), float(nearest))


def seed_agreement(
    dictionaries: Sequence[Tensor], *, draws: int = 3, null: Null = "rotation", seed: int = 0
) -> SeedAgreement:
    """Returns the agreement of every two dictionaries, and of `draws` pairs by chance.

    Args:
        dictionaries: two or more, each `[d_sae, d_in]`.
        draws: comparisons of the null; pair after pair, and again from the first.
        null: how one of two is turned (`turned`).
        seed: of the null.

    Raises:
        ValueError: fewer than two, or of different widths.
    """
    if len(dictionaries) < 2:
        raise ValueError(
            f"{len(dictionaries)} dictionaries were given, but two or more were expected"
        )
    pairs = list(combinations(dictionaries, 2))
    by_chance = []
    for draw in range(draws):
        a, b = pairs[draw % len(pairs)]
        generator = torch.Generator().manual_seed(seed + draw)
        by_chance.append(agreement(a, turned(b, beside=a, null=null, generator=generator)))
    return SeedAgreement(tuple(agreement(a, b) for a, b in pairs), tuple(by_chance))


def turned(W: Tensor, *, beside: Tensor, null: Null, generator: torch.Generator) -> Tensor:
    """Returns `W` `[d_sae, d_in]` turned at random as a whole, in float64 on CPU.

    Cosines within the dictionary stay; those with another are by chance.

    Args:
        W: the rows.
        beside: `[n, d_in]`, the rows that it is compared with.
        null: `rotation`: in any direction; `reflection`: each principal axis of the rows of both is
            kept or reversed. That keeps which subspace the rows lie in, and is the stricter.
        generator: on CPU.
    """
    rows = W.detach().cpu().double()
    d_in = rows.shape[1]
    if null == "rotation":
        normal = torch.randn(d_in, d_in, generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(normal)
        return rows @ (q * r.diagonal().sign())  # uniform over all rotations and reflections
    both = torch.cat([rows, beside.detach().cpu().double()])
    axes = torch.linalg.eigh(both.T @ both).eigenvectors
    sign = 2.0 * torch.randint(2, (d_in,), generator=generator) - 1
    return rows @ (axes * sign) @ axes.T
