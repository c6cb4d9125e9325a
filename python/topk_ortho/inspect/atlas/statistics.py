"""From sums over tokens to the statistics of every candidate pair (docs/atlas.md has them).

A row is a child c, a column one of its candidate parents p. T is the set of tokens on which c fires
and p is silent; `y = <r, d_p> + f cos` is how much of p is there once the child's own contribution
is put back, and `u` is the residual along the part of d_p that is orthogonal to d_c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from topk_ortho.inspect.atlas.nearest import Nearest
from topk_ortho.inspect.atlas.tally import Sums
from topk_ortho.sae import SAE
from topk_ortho.sparse.scale import row_norms

LEAST_TOKENS = 20
"""Firings below which a feature, and tokens of T below which a pair, is not judged."""
LEAST_ALIVE = 16
"""References that fire often enough, below which those that do not are taken as well."""
MAD = 1.4826
"""A standard deviation over the median absolute deviation, of a normal distribution."""
_TINY = 1e-9


@dataclass(frozen=True)
class Statistics:
    """Statistics of features `[d_sae]`, and of pairs `[d_sae, K]`, children by candidate parents.

    Attributes:
        parent, cosine: of each pair, the candidate parent and the cosine of the rows.
        n: tokens on which each feature fires.
        strength: how far the input reaches along a feature's row where it fires, mean.
        n_T, flagged: tokens of T, and those on which the parent is there at half its strength.
        V: variance of u on T, over that of the residual along p where p is silent.
        z: robust z of log V among the references of the column.
        opposite: `[d_sae]`, the largest z of a reference whose cosine with the child is negative.
        y_ratio: mean y on T, over the parent's strength.
        reverse: the y_ratio of the pair the other way round, NaN where it is no candidate.
        intercept: of y on f, over the parent's strength.
        hole: what the child takes off the parent's pre-activation beyond the overlap of the rows.
        judged: whether both fire, and T is, often enough.
    """

    parent: Tensor
    cosine: Tensor
    n: Tensor
    strength: Tensor
    n_T: Tensor
    flagged: Tensor
    V: Tensor
    z: Tensor
    opposite: Tensor
    y_ratio: Tensor
    reverse: Tensor
    intercept: Tensor
    hole: Tensor
    judged: Tensor

    @property
    def co_firing(self) -> Tensor:
        """Returns `[d_sae, K]`, tokens on which both fire."""
        return self.n[:, None] - self.n_T


@torch.no_grad()
def statistics(sae: SAE, nearest: Nearest, references: Tensor, sums: Sums) -> Statistics:
    """Returns the statistics of all candidate pairs.

    Args:
        sae: the one that the sums are of.
        nearest, references: as `Tally` was given them.
        sums: of all tokens.
    """
    parent, cosine = nearest
    s = sums.pair
    alive = sums.n >= LEAST_TOKENS
    strength = (sums.P + sums.f) / sums.n.clamp(min=1)
    silent_variance = _silent_variance(sae, sums)
    V, n_T = _variance_ratio(s, cosine, silent_variance[parent]), s["n"]
    z, opposite = _robust(sae, references, sums, silent_variance, V)
    w = n_T.clamp(min=1)
    own = strength[parent].masked_fill(sums.n[parent] == 0, torch.inf)
    y_mean = (s["P"] + cosine * s["f"]) / w
    f_mean = s["f"] / w
    f_variance = (s["ff"] / w - f_mean**2).clamp(min=_TINY)
    slope = ((s["Pf"] + cosine * s["ff"]) / w - y_mean * f_mean) / f_variance
    y_ratio = y_mean / own
    return Statistics(
        parent=parent,
        cosine=cosine,
        n=sums.n,
        strength=strength,
        n_T=n_T,
        flagged=s["flagged"],
        V=V,
        z=z,
        opposite=opposite,
        y_ratio=y_ratio,
        reverse=_reverse(parent, y_ratio),
        intercept=(y_mean - slope * f_mean) / own,
        hole=_hole(sae, nearest, sums) / own,
        judged=alive[:, None] & alive[parent] & (n_T >= LEAST_TOKENS),
    )


def _silent_variance(sae: SAE, sums: Sums) -> Tensor:
    """`[d_sae]`, variance of the residual along each row where the feature is silent."""
    W, norm = sae.W_dec.double(), row_norms(sae.W_dec).double().clamp(min=1e-30)
    total = (W @ sums.r) / norm
    squared = torch.cat([((w @ sums.rr) * w).sum(1) for w in W.split(1024)]) / norm**2
    n = (sums.rows - sums.n).clamp(min=1)
    mean = (total - sums.P) / n
    return ((squared - sums.PP) / n - mean**2).clamp(min=_TINY)


def _variance_ratio(s: dict[str, Tensor], cosine: Tensor, silent: Tensor) -> Tensor:
    sine2 = (1 - cosine**2).clamp(min=1e-3)
    w = s["n"].clamp(min=1)
    mean = (s["P"] - cosine * s["Q"]) / w
    squared = (s["PP"] - 2 * cosine * s["PQ"] + cosine**2 * s["QQ"]) / w
    return (squared - mean**2).clamp(min=0) / sine2 / silent


def _robust(
    sae: SAE, references: Tensor, sums: Sums, silent: Tensor, V: Tensor
) -> tuple[Tensor, Tensor]:
    """z of every pair, and the largest one of a reference on the other side of the child."""
    s, W = sums.reference, sae.W_dec.double()
    unit = W / row_norms(sae.W_dec).double().clamp(min=1e-30)[:, None]
    cosine = unit @ unit[references].T
    alive = sums.n[references] >= LEAST_TOKENS
    if int(alive.sum()) < LEAST_ALIVE:
        alive = torch.ones_like(alive)
    own = torch.arange(len(W), device=W.device)[:, None] == references
    log = _variance_ratio(s, cosine, silent[references]).clamp(min=_TINY).log()
    log = log.masked_fill(own | ~alive | (s["n"] < LEAST_TOKENS), torch.nan)
    middle = log.nanmedian(1, keepdim=True).values
    spread = MAD * (log - middle).abs().nanmedian(1, keepdim=True).values.clamp(min=_TINY)
    opposite = ((log - middle) / spread).masked_fill(~(cosine < 0), -torch.inf)
    z = (V.clamp(min=_TINY).log() - middle) / spread
    return z, opposite.nan_to_num(nan=-torch.inf, neginf=-torch.inf).amax(1)


def _reverse(parent: Tensor, y_ratio: Tensor) -> Tensor:
    """The y_ratio of (p, c) at (c, p)."""
    d_sae, k = parent.shape
    child = torch.arange(d_sae, device=parent.device).repeat_interleave(k)
    keys, order = (child * d_sae + parent.flatten()).sort()
    wanted = parent.flatten() * d_sae + child
    at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    found = y_ratio.flatten()[order][at]
    return found.masked_fill(keys[at] != wanted, torch.nan).view(d_sae, k)


def _hole(sae: SAE, nearest: Nearest, sums: Sums) -> Tensor:
    """`-(<e_p, d_c> - cos <e_p, d_p>) / |<e_p, d_p>|`, times the child's mean code; unit rows."""
    W_enc, W_dec = sae.W_enc.detach().T, sae.W_dec.detach()
    norm = row_norms(W_dec).double().clamp(min=1e-30)
    own = (W_enc * W_dec).sum(1, dtype=torch.float64)
    across = torch.cat([
        torch.einsum("ckd,cd->ck", W_enc[near], w).double()
        for near, w in _pieces(nearest.rows, W_dec)
    ])  # fmt: skip
    across *= norm[nearest.rows] / norm[:, None]
    at = own[nearest.rows]
    mean = sums.f / sums.n.clamp(min=1)
    return -(across - nearest.cosine * at) / at.abs().clamp(min=_TINY) * mean[:, None]


def _pieces(index: Tensor, W: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    rows = max(1, 2**24 // (index.shape[1] * W.shape[1]))
    return zip(index.split(rows), W.split(rows), strict=True)
