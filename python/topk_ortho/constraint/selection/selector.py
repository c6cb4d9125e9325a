"""`PairSelector`: from a batch of codes (and the decoder) to the k best pairs, exactly.

The score of a pair is the criterion's formula in float64, rounded once to float32; pairs are ranked
by that value, ties to the smaller (i, j). Every path gives the set that a brute force would give
(method 2, "What exact means"). Nothing here carries a gradient.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from topk_ortho.config import DEFAULT_PER_FEATURE
from topk_ortho.constraint.criteria.criteria import COACTIVE, PRODUCT
from topk_ortho.constraint.criteria.evidence import Evidence
from topk_ortho.constraint.criteria.matched import matched_pairs
from topk_ortho.constraint.criteria.ortsae import ortsae_pairs
from topk_ortho.constraint.selection import native, paths
from topk_ortho.constraint.selection.ledger import Ledger
from topk_ortho.constraint.selection.native import Coactivation
from topk_ortho.constraint.selection.retry import halving
from topk_ortho.constraint.selection.selection import PairSelection, n_pairs
from topk_ortho.constraint.selection.tiles import TILED
from topk_ortho.machine.spans import spanned
from topk_ortho.sparse.codes import Codes

CRITERIA = (*COACTIVE, *TILED, *PRODUCT, "random", "random-matched", "ortsae")
NEEDS: dict[str, tuple[str, ...]] = {
    "gradient": ("gradient",),
    "gradient-batchwise": ("gradient",),
    "gradient-accumulated": ("energy",),
    "coactive-cosine": ("W_dec",),
    "decoder-cosine": ("W_dec",),
    "sign-discrepancy": ("W_dec", "W_enc"),
    "preactivation": ("pre",),
    "decoder-projection": ("W_dec", "x", "threshold"),
    "suppressed": ("W_dec", "x", "threshold"),
    "ortsae": ("W_dec",),
}
"""What a criterion looks at besides the codes, by the names of `Evidence`."""


class PairSelector:
    """Selects the k best pairs of features in a batch.

    `ortsae` takes one pair per feature, whatever size is asked for.

    Args:
        criterion: one of `CRITERIA`; hyphens and underscores are the same.
        fraction: k as a share of the pairs counted by `of`.
        per_feature: k as a multiple of `d_sae`; 2.5 when neither is given.
        of: `"all"` pairs, or the `"active"` ones, with a positive score.
        max_pairs: an upper limit on k; none by default.
        min_support: `coactivation-cosine`, `correlation` and `conditional` leave out pairs whose
            rarer feature fired on fewer rows.
        memory_budget: bytes for the temporaries of one selection; where memory runs out, the same
            selection is tried again with half of it, and that stays.
        seed: of what is random in `random`, `random-matched` and `ortsae`.
        backend: `"auto"`: Rust for pairs that fire together on CPU; `"torch"`: never.

    Example:
        >>> selection = PairSelector("coactivation", fraction=0.001)(acts)
        >>> selection.i, selection.j, selection.score
    """

    def __init__(
        self,
        criterion: str = "coactivation",
        *,
        fraction: float | None = None,
        per_feature: float | None = None,
        of: str = "all",
        max_pairs: int | None = None,
        min_support: int = 8,
        memory_budget: int = 256 * 2**20,
        seed: int = 0,
        backend: str = "auto",
    ):
        criterion = criterion.replace("_", "-")
        if criterion not in CRITERIA:
            raise ValueError(
                f"criterion {criterion!r} was given, but one of {', '.join(CRITERIA)} was expected."
            )
        if fraction is not None and per_feature is not None:
            raise ValueError(
                f"fraction={fraction} and per_feature={per_feature} were both given, but they say "
                "the same thing, k, in two ways; leave one out."
            )
        _check_fraction(fraction)
        if per_feature is not None and not 0 < per_feature < math.inf:
            raise ValueError(
                f"per_feature={per_feature} was given, but a number above 0 was expected; try 2.5."
            )
        if max_pairs is not None and max_pairs < 1:
            raise ValueError(f"max_pairs={max_pairs} was given, but at least 1 was expected.")
        if of not in ("all", "active"):
            raise ValueError(f"of={of!r} was given, but 'all' or 'active' was expected.")
        if backend not in ("auto", "torch"):
            raise ValueError(f"backend={backend!r} was given, but 'auto' or 'torch' was expected.")
        self.backend = backend
        self._rust = Coactivation()
        self.criterion = criterion
        self.fraction = fraction
        self.per_feature = DEFAULT_PER_FEATURE if per_feature is None else per_feature
        self.of = of
        self.max_pairs = max_pairs
        self.min_support = min_support
        self.memory_budget = memory_budget
        self.seed = seed

    @property
    def needs(self) -> frozenset[str]:
        """Names of the evidence that the criterion looks at."""
        return frozenset(NEEDS.get(self.criterion, ()))

    @spanned("scores")
    @torch.no_grad()
    def __call__(
        self,
        acts: Tensor | Codes,
        *,
        fraction: float | None = None,
        step: int = 0,
        **evidence: Tensor | None,
    ) -> PairSelection:
        """The selection of one batch.

        Args:
            acts: `[batch, d_sae]`, dense or sparse (CSR or COO), on any device; or `Codes`.
            fraction: in place of the selector's own, for schedules.
            step: varies what is random.
            evidence: what the criterion looks at besides the codes: `W_dec`, `W_enc`, `x`, `pre`,
                `gradient`, `threshold`, `energy` (shapes at `Evidence`).

        Raises:
            ValueError: activations that are negative or not finite, evidence that is missing or of
                another shape, or a score that is not finite (the message names the pair).
        """
        codes = acts if isinstance(acts, Codes) else Codes.of(acts)

        def attempt(memory_budget: int) -> PairSelection:
            e = Evidence(codes, memory_budget, **evidence)
            with torch.autocast(codes.device.type, enabled=False):
                return self._select(e, self._k(e, fraction), step)

        selection, self.memory_budget = halving(attempt, self.memory_budget)
        return selection

    def accounted(self, codes: Codes, **how: Any) -> tuple[PairSelection, dict[str, int]]:
        """A selection, and the bytes held besides the batch when most were held, by who made them.

        Args:
            codes: the batch.
            how: as for a call.
        """
        given = [codes.crow, codes.row, codes.col, codes.value]
        given += [value for value in how.values() if isinstance(value, Tensor)]
        with Ledger(given) as ledger:
            selection = self(codes, **how)
        kept = min(selection.requested, selection.positive)
        rust = {
            "rust buffers": self._rust.bytes,
            "rust best pairs": native.BYTES_PER_BEST * kept if codes.device.type == "cpu" else 0,
        }
        return selection, ledger.at_peak | {name: size for name, size in rust.items() if size}

    def _k(self, e: Evidence, fraction: float | None) -> int:
        d_sae = e.codes.d_sae
        _check_fraction(fraction)
        fraction = self.fraction if fraction is None else fraction
        if fraction is None:
            k = round(self.per_feature * d_sae)
        elif self.of == "active":
            k = round(fraction * self._select(e, 1, 0).positive)
        else:
            k = round(fraction * n_pairs(d_sae))
        k = min(max(k, 1), n_pairs(d_sae))
        return k if self.max_pairs is None else min(k, self.max_pairs)

    def _select(self, e: Evidence, k: int, step: int) -> PairSelection:
        name = self.criterion
        if name in COACTIVE:
            return self._coactive(name, e, k)
        if name in TILED:
            return paths.tiled(name, e, k)
        if name in PRODUCT:
            return paths.product(name, e, k)
        seed = (self.seed * 1_000_003 + step) % 2**63
        if name == "random-matched":
            chosen = self._coactive("coactivation", e, k)
            return matched_pairs(chosen, e.codes.counts(), seed=seed)
        return ortsae_pairs(e, seed=seed) if name == "ortsae" else paths.uniform(e, k, seed=seed)

    def _coactive(self, name: str, e: Evidence, k: int) -> PairSelection:
        if paths.is_dense(e.codes):
            return paths.dense(name, e, k, min_support=self.min_support)
        if e.codes.device.type == "cpu" and self.backend == "auto":
            return paths.native(name, e, k, min_support=self.min_support, rust=self._rust)
        return paths.coactive(name, e, k, min_support=self.min_support)


def _check_fraction(fraction: float | None) -> None:
    if fraction is not None and not 0 < fraction <= 1:
        raise ValueError(
            f"fraction={fraction} was given, but a share of the pairs in (0, 1] was expected; "
            "0.001 is 0.1 % of them."
        )
