"""Which candidate edges are right, on data with known features.

A feature stands for the true feature nearest to its row, where their cosine is above `LEAST_MATCH`.
A pair (p, c) is a *true edge* where c detects a true child of p's true feature with a precision of
at least `LEAST_PRECISION`. It is *absorbed* where moreover p is silent, on tokens with p's true
feature on and c firing, more often by `LEAST_EXCESS` than on tokens with that feature on and no
child of it, and that on at least `LEAST_TOKENS` tokens. Where every true feature has a cosine below
`NO_MATCH` with p, p is one of the data's own features, and nothing is known of the pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from topk_ortho.activations.source import GroundTruth
from topk_ortho.inspect.atlas.rules import Edge
from topk_ortho.inspect.atlas.statistics import LEAST_TOKENS
from topk_ortho.inspect.atlas.tally import PRESENT
from topk_ortho.sae import SAE
from topk_ortho.sparse.scale import row_norms

LEAST_MATCH, NO_MATCH = 0.7, 0.6
LEAST_PRECISION = 0.4
LEAST_EXCESS = 0.2


@dataclass(frozen=True)
class TierTruth:
    """How many edges of some tiers are right.

    Attributes:
        found: edges whose parent is no feature of the data's own.
        true_edges, absorbed: of these.
        unknown: edges whose parent is one of the data's own features.
        positives: absorbed pairs that there are.
    """

    found: int
    true_edges: int
    absorbed: int
    unknown: int
    positives: int

    @property
    def precision_true(self) -> float | None:
        return self.true_edges / self.found if self.found else None

    @property
    def precision_absorbed(self) -> float | None:
        return self.absorbed / self.found if self.found else None

    @property
    def recall(self) -> float | None:
        return self.absorbed / self.positives if self.positives else None

    def as_json(self) -> dict[str, Any]:
        """Returns counts and shares, None where there is nothing to take a share of."""
        names = ("precision_true", "precision_absorbed", "recall")
        return asdict(self) | {name: getattr(self, name) for name in names}


TIERS = {
    "both": ("both",),
    "variance": ("both", "variance"),
    "strength": ("both", "strength"),
    "any": ("both", "variance", "strength"),
}
"""By name, the tiers that are taken together: `variance` is all that rule A finds."""


class TruthMeter:
    """Counts over the same tokens as the edges were found on.

    Args:
        sae: in the units of the activations.
        truth: directions and parents of the true features.
        edges: what was found.
        strength: `[d_sae]`, how strongly each feature is there where it fires.
    """

    def __init__(self, sae: SAE, truth: GroundTruth, edges: Sequence[Edge], strength: Tensor):
        self.sae, self.edges = sae, edges
        self.truth_parent = truth.parent.cpu()
        unit = normalize(sae.W_dec.detach().double(), dim=1).cpu()
        cosine = normalize(truth.directions.double(), dim=1) @ unit.T
        self.match, self.nearest = cosine.max(0)
        has_child = torch.isin(self.nearest, self.truth_parent)
        self.parents = ((self.match > LEAST_MATCH) & has_child).nonzero().flatten()
        n_true, d_sae = cosine.shape
        self.together = torch.zeros(n_true, d_sae, dtype=torch.float64)
        self.fired = torch.zeros(d_sae, dtype=torch.float64)
        shape = (len(self.parents), d_sae)
        self.missed, self.on = (torch.zeros(shape, dtype=torch.float64) for _ in "mo")
        self.alone, self.alone_missed = (torch.zeros(shape[0]) for _ in "am")
        self.flagged = torch.zeros(len(edges), 2)
        self.strength = strength.cpu()

    @torch.no_grad()
    def update(self, x: Tensor, fired: Tensor) -> None:
        """Take in rows `[rows, d_in]`, and `[rows, n_true]` bool, which true features are on."""
        x = x.to(self.sae.W_dec.device)
        acts = self.sae.encode(x)
        on, fires = fired.cpu().float(), (acts > 0).float().cpu()
        self.together += on.T @ fires
        self.fired += fires.sum(0)
        some_child = torch.zeros_like(on)
        child = (self.truth_parent >= 0).nonzero().flatten()
        some_child.index_add_(1, self.truth_parent[child], on[:, child])
        t, silent = self.nearest[self.parents], 1 - fires[:, self.parents]
        self.on += on[:, t].T @ fires
        self.missed += (on[:, t] * silent).T @ fires
        alone = on[:, t] * (some_child[:, t] == 0)
        self.alone += alone.sum(0)
        self.alone_missed += (alone * silent).sum(0)
        self._flags(x, acts, on)

    def _flags(self, x: Tensor, acts: Tensor, on: Tensor) -> None:
        residual = (x - self.sae.decode(acts)).cpu()
        W = self.sae.W_dec.detach().cpu()
        norm = row_norms(W)
        for at, edge in enumerate(self.edges):
            p, c = edge.parent, edge.child
            rows = ((acts[:, c] > 0) & (acts[:, p] == 0)).nonzero().flatten().cpu()
            own = residual[rows] @ W[p] / norm[p]
            y = own + acts[rows, c].cpu() * norm[c] * edge.cosine
            there = rows[y >= PRESENT * float(self.strength[p])]
            self.flagged[at, 0] += len(there)
            self.flagged[at, 1] += on[there, self.nearest[p]].sum()

    def result(self) -> dict[str, Any]:
        """Returns a verdict on each edge, and counts by tier."""
        kin, absorbed, excess = self._pairs()
        place = {int(p): at for at, p in enumerate(self.parents)}
        verdicts, of_edge = [], []
        for at, edge in enumerate(self.edges):
            row = place.get(edge.parent)
            word = "wrong"
            if float(self.match[edge.parent]) < NO_MATCH:
                word = "unknown"
            elif row is not None and bool(absorbed[row, edge.child]):
                word = "absorbed"
            elif row is not None and bool(kin[row, edge.child]):
                word = "true edge"
            n, right = self.flagged[at].tolist()
            verdicts.append({
                "parent": edge.parent, "child": edge.child, "verdict": word,
                "excess": None if row is None else _number(excess[row, edge.child]),
                "flagged_right": right / n if n and word != "unknown" else None,
            })  # fmt: skip
            of_edge.append(word)
        return {"edges": verdicts, "tiers": self._tiers(of_edge, int(absorbed.sum()))}

    def _pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """`[parents, d_sae]`: true edges, absorbed pairs, and the excess."""
        precision = self.together / self.fired.clamp(min=1)
        base = self.alone_missed / self.alone
        excess = self.missed / self.on.clamp(min=1) - base[:, None]
        kin = torch.zeros_like(excess, dtype=torch.bool)
        for at, p in enumerate(self.parents.tolist()):
            kids = self.truth_parent == self.nearest[p]
            kin[at] = (precision[kids] >= LEAST_PRECISION).any(0)
            kin[at, p] = False
            if self.fired[p] < LEAST_TOKENS:
                excess[at] = torch.nan
        return kin, kin & (excess > LEAST_EXCESS) & (self.missed >= LEAST_TOKENS), excess

    def _tiers(self, words: list[str], positives: int) -> dict[str, Any]:
        out = {}
        for name, tiers in TIERS.items():
            chosen = [w for w, e in zip(words, self.edges, strict=True) if e.tier in tiers]
            known = [w for w in chosen if w != "unknown"]
            out[name] = TierTruth(
                found=len(known),
                true_edges=len(known) - known.count("wrong"),
                absorbed=known.count("absorbed"),
                unknown=len(chosen) - len(known),
                positives=positives,
            ).as_json()
        return out


def _number(value: Tensor) -> float | None:
    return float(value) if bool(torch.isfinite(value)) else None
