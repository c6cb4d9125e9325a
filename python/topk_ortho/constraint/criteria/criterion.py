"""A criterion: one record with everything that the rest of the package needs to know about it.

A record says how pairs are scored in one of four forms, from the cheapest to the most general:
`CoactiveSum`, `OnePerFeature`, `AllPairs`, `Drawn`. Imports no torch, so that names, inputs and
coefficients are available when a configuration is read; functions of records work on tensors alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from topk_ortho.config.registry import CRITERIA

if TYPE_CHECKING:
    from torch import Tensor

    from topk_ortho.config.penalty import PairWeight
    from topk_ortho.constraint.criteria.inputs import SelectorInputs
    from topk_ortho.constraint.selection.native import BestPairs, Coactivation
    from topk_ortho.constraint.selection.selection import PairSelection

INPUTS = {
    "W_dec": "[d_sae, d_in]",
    "W_enc": "[d_in, d_sae]",
    "x": "[batch, d_in], activations minus b_dec",
    "pre": "[batch, d_sae], encoder pre-activations",
    "gradient": "[batch, d_sae], or [nnz] in the order of the codes' entries: dL_rec/df",
    "threshold": "[d_sae], each feature's firing threshold",
    "energy": "[d_sae], moving average of the summed squared gradient",
}
"""Inputs that a criterion may use besides the codes, and their shapes."""

Score: TypeAlias = "Callable[[Tensor, Tensor, Tensor], Tensor]"
"""`(i, j, sums) -> score`, all `[n]`, in float64."""


@dataclass(frozen=True)
class CoactiveSum:
    """A sum over the batch of a product of two values, for pairs that fire together.

    Attributes:
        value: `[nnz]`, what is multiplied on the active entries: `Σ_b v_bi v_bj`.
        score: reads the batch once, and returns the function from sums to scores; the sum
            itself unless given.
        min_support: whether pairs of rarely firing features are left out (`pairs.min_support`).
        rust: the whole selection on CPU, `(i, j, score, positive)`, best first, in Rust; returns
            None where it cannot. A plain sum has one; without one, Rust makes the sums alone.
    """

    value: Callable[[SelectorInputs], Tensor]
    score: Callable[[SelectorInputs], Score] | None = None
    min_support: bool = False
    rust: Callable[[Coactivation, SelectorInputs, int], BestPairs | None] | None = None
    label: ClassVar[str] = "codes"

    def scores(self, e: SelectorInputs) -> Score:
        """Returns the function from sums to scores on one batch."""
        return (lambda i, j, sums: sums) if self.score is None else self.score(e)


@dataclass(frozen=True)
class OnePerFeature:
    """A product of one value per feature, for any pair; no matrix of pairs is formed.

    Attributes:
        vector: `[d_sae]` float32, not negative.
    """

    vector: Callable[[SelectorInputs], Tensor]
    label: ClassVar[str] = "product"


@dataclass(frozen=True)
class Tiles:
    """The functions that score a criterion's tiles on one batch.

    Attributes:
        tile: `(rows, columns) -> [rows, columns]`.
        width: elements that one row of a tile costs besides its cells.
        exact: `(i, j) -> float64`, for survivors; None where `tile` is float64 itself.
        bound: largest `|tile - exact|`.
    """

    tile: Callable[[slice, slice], Tensor]
    width: int
    exact: Callable[[Tensor, Tensor], Tensor] | None = None
    bound: float = 0.0


@dataclass(frozen=True)
class AllPairs:
    """A score of all pairs, tile by tile; the full matrix is never held."""

    tiles: Callable[[SelectorInputs], Tiles]
    label: ClassVar[str] = "tiles"


@dataclass(frozen=True)
class Drawn:
    """Pairs that are drawn at random, or found by the criterion's own method.

    Attributes:
        draw: `(inputs, k, seed, select) -> PairSelection`; `seed` differs from step to step, and
            `select(form, k)` selects by another form on the same batch.
        label: where the pairs come from, a word for tables.
    """

    draw: Callable[
        [SelectorInputs, int, int, Callable[[CoactiveSum, int], PairSelection]], PairSelection
    ]
    label: str = "drawn"


Form: TypeAlias = CoactiveSum | OnePerFeature | AllPairs | Drawn


@dataclass(frozen=True, repr=False)
class Criterion:
    """A way to choose pairs.

    Attributes:
        name: lower-case words joined by hyphens.
        line: the score of a pair (i, j) in one line, for tables and help.
        form: how it is computed.
        required_inputs: what it uses besides the codes, names of `INPUTS`.
        coefficient: the penalty's coefficient where none is given.
        own_size: whether it decides by itself how many pairs it takes, so that `fraction`,
            `per_feature` and `max_pairs` are refused.
        least_features: the smallest dictionary that it makes sense for.
        listed: whether its pairs are those of `pairs.given`.
        pair_weight: what a pair's term is multiplied by where nothing is given.
    """

    name: str
    line: str
    form: Form
    required_inputs: frozenset[str] = frozenset()
    coefficient: float = 0.2
    own_size: bool = False
    least_features: int = 2
    listed: bool = False
    pair_weight: PairWeight = "one"

    def __repr__(self) -> str:
        return f"Criterion({self.name!r}: {self.line})"

    @property
    def draws(self) -> bool:
        """Returns whether pairs are chosen in another way than by ranking their scores."""
        return isinstance(self.form, Drawn)

    @property
    def supported(self) -> bool:
        """Returns whether pairs of rarely firing features are left out (`pairs.min_support`)."""
        return isinstance(self.form, CoactiveSum) and self.form.min_support


def register_criterion(criterion: Criterion) -> Criterion:
    """Adds a criterion to those that `pairs.criterion` may name, and returns it.

    Raises:
        ValueError: its name is taken or malformed, or it needs an input that no step has.
    """
    unknown = sorted(set(criterion.required_inputs) - set(INPUTS))
    if unknown:
        raise ValueError(
            f"criterion {criterion.name} was registered with required_inputs {', '.join(unknown)}, "
            f"but some of {', '.join(INPUTS)} were expected; the codes come in any case."
        )
    return CRITERIA.register(criterion)
