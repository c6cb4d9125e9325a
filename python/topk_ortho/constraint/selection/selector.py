"""`PairSelector`: from a batch of codes (and the decoder) to the k best pairs, exactly.

The score of a pair is the criterion's formula in float64, rounded once to float32; pairs are ranked
by that value, ties to the smaller (i, j). Every path gives the set that a brute force would give
(method 2, "What exact means"). Nothing here carries a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from topk_ortho.config import DEFAULT_CRITERION, DEFAULT_PER_FEATURE
from topk_ortho.config.errors import one_of
from topk_ortho.constraint.criteria import (
    CRITERIA,
    AllPairs,
    CoactiveSum,
    Drawn,
    Form,
    OnePerFeature,
)
from topk_ortho.constraint.criteria.inputs import SelectorInputs
from topk_ortho.constraint.selection import native, paths
from topk_ortho.constraint.selection.ledger import Ledger
from topk_ortho.constraint.selection.native import Coactivation
from topk_ortho.constraint.selection.owners import Owners
from topk_ortho.constraint.selection.retry import halving
from topk_ortho.constraint.selection.selection import PairSelection, n_pairs
from topk_ortho.constraint.uncompiled import uncompiled
from topk_ortho.machine.spans import spanned
from topk_ortho.sparse.codes import Codes


class PairSelector:
    """Selects the k best pairs of features in a batch.

    A criterion that sets its own size, such as `ortsae`, ignores the size asked for.

    Args:
        criterion: the name of a registered one; hyphens and underscores are the same.
        fraction: k as a share of the pairs that `fraction_of` counts.
        per_feature: k as a multiple of `d_sae`; 2.5 when neither is given.
        fraction_of: `"all"` pairs, or the `"active"` ones, with a positive score.
        max_pairs: an upper limit on k; none by default.
        min_support: criteria that divide by how often a feature fires leave out pairs whose rarer
            feature fired on fewer rows.
        memory_budget: bytes for the temporaries of one selection; where memory runs out, the same
            selection is tried again with half of it, and the lower budget is kept.
        seed: of what is drawn at random.
        given: the pairs of criterion `given`, one feature after the other.
        backend: `"auto"`: Rust for pairs that fire together on CPU; `"torch"`: never.

    Example:
        >>> selection = PairSelector(fraction=0.001)(acts)
        >>> selection.i, selection.j, selection.score
    """

    def __init__(
        self,
        criterion: str = DEFAULT_CRITERION,
        *,
        fraction: float | None = None,
        per_feature: float | None = None,
        fraction_of: str = "all",
        max_pairs: int | None = None,
        min_support: int = 8,
        memory_budget: int = 256 * 2**20,
        seed: int = 0,
        backend: str = "auto",
        given: Sequence[int] = (),
    ):
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
        self.backend = one_of("backend", backend, ("auto", "torch"))
        self._rust = Coactivation()
        self._owners = Owners()
        self._criterion = CRITERIA[criterion]
        self.criterion = self._criterion.name
        self.fraction = fraction
        self.per_feature = DEFAULT_PER_FEATURE if per_feature is None else per_feature
        self.fraction_of = one_of("fraction_of", fraction_of, ("all", "active"))
        self.max_pairs = max_pairs
        self.min_support = min_support
        self.memory_budget = memory_budget
        self.seed = seed
        if self._criterion.listed and (not given or len(given) % 2):
            raise ValueError(
                f"criterion {self.criterion} and {len(given)} features were given, but two for "
                "each pair were expected; pass given=[3, 17, 5, 9] for (3, 17) and (5, 9)."
            )
        self.given = torch.tensor(given, dtype=torch.int64).view(-1, 2) if len(given) else None

    def __repr__(self) -> str:
        size = f"per_feature={self.per_feature:g}"
        if self.fraction is not None:
            size = f"fraction={self.fraction:g}, fraction_of={self.fraction_of!r}"
        return f"PairSelector({self.criterion!r}{'' if self._criterion.own_size else f', {size}'})"

    @property
    def required_inputs(self) -> frozenset[str]:
        """Returns the names of the inputs that the criterion needs besides the codes."""
        return self._criterion.required_inputs

    @uncompiled
    @spanned("scores")
    @torch.no_grad()
    def __call__(
        self,
        acts: Tensor | Codes,
        *,
        fraction: float | None = None,
        step: int = 0,
        **inputs: Tensor | None,
    ) -> PairSelection:
        """Returns the selection of one batch.

        Args:
            acts: `[batch, d_sae]`, dense or sparse (CSR or COO), on any device; or `Codes`.
            fraction: in place of the selector's own, for schedules.
            step: varies what is random.
            inputs: what the criterion needs besides the codes, `required_inputs`: `W_dec`,
                `W_enc`, `x`, `pre`, `gradient`, `threshold`, `energy` (shapes at `INPUTS`).

        Raises:
            ValueError: activations that are negative or not finite, an input that is missing or of
                another shape, or a score that is not finite (the message names the pair).
        """
        codes = acts if isinstance(acts, Codes) else Codes.of(acts)

        def attempt(memory_budget: int) -> PairSelection:
            e = SelectorInputs(codes, memory_budget, given=self.given, **inputs)
            with torch.autocast(codes.device.type, enabled=False):
                return self._select(e, self._k(e, fraction), step)

        selection, self.memory_budget = halving(attempt, self.memory_budget)
        return selection

    def tracked(self, codes: Codes, **how: Any) -> tuple[PairSelection, dict[str, int]]:
        """Returns a selection, and its peak bytes besides the batch, by function.

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

    def _k(self, e: SelectorInputs, fraction: float | None) -> int:
        d_sae = e.codes.d_sae
        _check_fraction(fraction)
        fraction = self.fraction if fraction is None else fraction
        if fraction is None:
            k = round(self.per_feature * d_sae)
        elif self.fraction_of == "active":
            k = round(fraction * self._select(e, 1, 0).positive)
        else:
            k = round(fraction * n_pairs(d_sae))
        k = min(max(k, 1), n_pairs(d_sae))
        return k if self.max_pairs is None else min(k, self.max_pairs)

    def _select(self, e: SelectorInputs, k: int, step: int) -> PairSelection:
        form: Form = self._criterion.form
        match form:
            case CoactiveSum():
                return self._coactive(form, e, k)
            case AllPairs():
                return paths.tiled(form, e, k)
            case OnePerFeature():
                return paths.product(form, e, k)
            case Drawn():
                seed = (self.seed * 1_000_003 + step) % 2**63
                return form.draw(e, k, seed, lambda other, k: self._coactive(other, e, k))

    def _coactive(self, form: CoactiveSum, e: SelectorInputs, k: int) -> PairSelection:
        if paths.is_dense(e.codes):
            return paths.dense(form, e, k, min_support=self.min_support)
        if e.codes.device.type == "cpu" and self.backend == "auto":
            return paths.native(form, e, k, min_support=self.min_support, rust=self._rust)
        if e.codes.device.type != "cpu":
            least = self.min_support
            selection = paths.owned(form, e, k, min_support=least, owners=self._owners)
            if selection is None:
                selection = paths.in_slots(form, e, k, min_support=least)
            if selection is not None:
                return selection
        return paths.coactive(form, e, k, min_support=self.min_support)


def _check_fraction(fraction: float | None) -> None:
    if fraction is not None and not 0 < fraction <= 1:
        raise ValueError(
            f"fraction={fraction} was given, but a share of the pairs in (0, 1] was expected; "
            "0.001 is 0.1 % of them."
        )
