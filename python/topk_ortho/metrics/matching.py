"""One feature for each class: by decoder cosine where directions are known, else by labels.

Classes are the true features of synthetic data, or whatever tokens are labelled with. An
assignment is one to one (Hungarian), so that the feature of a child is not taken for its parent's
as well. It costs a dense float64 matrix `[n_classes, d_sae]` and is cubic in the smaller side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from topk_ortho.metrics.firing import firing, labels

Score = Literal["f1", "correlation"]


@dataclass(frozen=True)
class Matching:
    """A feature for each class.

    Attributes:
        feature: `[n_classes]` int64 on CPU, -1 for none.
        cosine: `[n_classes]` float64 on CPU, of its decoder row with the class's direction; NaN
            where there is no feature or no direction.
        how: `cosine`, `f1`, `correlation` or `given`.
    """

    feature: Tensor
    cosine: Tensor
    how: str

    @classmethod
    def given(cls, feature: Tensor) -> Matching:
        """Returns a matching of features `[n_classes]` known from elsewhere, -1 for none.

        Raises:
            ValueError: not a vector of whole numbers from -1 on.
        """
        if feature.dim() != 1 or feature.is_floating_point() or bool((feature < -1).any()):
            raise ValueError(
                f"features of shape {list(feature.shape)} and dtype {feature.dtype} were given, "
                "but one index for each class, -1 for none, was expected"
            )
        index = feature.detach().cpu().long()
        return cls(index, torch.full(index.shape, math.nan, dtype=torch.float64), "given")


def match(W_dec: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Assigns features to true directions one to one, with the largest sum of cosines.

    Args:
        W_dec: `[d_sae, d_in]`; a row of zeros has cosine 0 with everything.
        directions: `[n_true, d_in]`.

    Returns:
        `feature` `[n_true]` int64 on CPU, -1 where there were fewer features than directions, and
        `cosine` `[n_true]` float64 on CPU, NaN where `feature` is -1.

    Raises:
        ValueError: widths differ or a value is not finite.
    """
    return assign(cosines(directions, W_dec))


def match_by_cosine(W_dec: Tensor, directions: Tensor) -> Matching:
    """Returns `match`, as a `Matching`."""
    return Matching(*match(W_dec, directions), "cosine")


def match_by_labels(acts: Tensor, on: Tensor, *, score: Score = "f1") -> Matching:
    """Returns the matching by one batch: `acts` `[rows, d_sae]`, `on` `[rows, n_classes]`."""
    matcher = LabelMatcher(on.shape[-1], acts.shape[-1])
    matcher.update(acts, on)
    return matcher.result(score=score)


class LabelMatcher:
    """A counter of how often each feature fires where each class is on.

    Memory is `n_classes * d_sae` float64; a batch costs its active entries times `n_classes`.
    """

    def __init__(self, n_classes: int, d_sae: int) -> None:
        self.rows = 0
        self._on = torch.zeros(n_classes, dtype=torch.float64)
        self._fires = torch.zeros(d_sae, dtype=torch.float64)
        self._both = torch.zeros(d_sae, n_classes, dtype=torch.float64)

    @torch.no_grad()
    def update(self, acts: Tensor, on: Tensor) -> None:
        """Take in one batch.

        Args:
            acts: `[rows, d_sae]`, codes or booleans, dense or sparse, on any device.
            on: `[rows, n_classes]`, which classes are on.

        Raises:
            ValueError: a shape that does not fit, or a value that is not finite.
        """
        d_sae, n_classes = self._both.shape
        expected = ((len(on), d_sae), (len(on), n_classes))
        if (tuple(acts.shape), tuple(on.shape)) != expected:
            raise ValueError(
                f"acts {tuple(acts.shape)} and on {tuple(on.shape)} do not fit; expected "
                f"{expected[0]} and {expected[1]}"
            )
        row, col = firing(acts)
        classes = labels(on).to(acts.device).double()
        both = torch.zeros(self._both.shape, dtype=torch.float64, device=acts.device)
        self._both += both.index_add_(0, col, classes[row]).cpu()
        self._fires += torch.bincount(col, minlength=d_sae).cpu()
        self._on += classes.sum(0).cpu()
        self.rows += len(on)

    def result(self, *, score: Score = "f1") -> Matching:
        """Returns the one-to-one assignment with the largest sum of scores above 0.

        Args:
            score: of a feature as a detector of a class: `f1`, or `correlation` of the two
                booleans (Matthews'). With `f1` a rare class counts like a frequent one.

        Raises:
            ValueError: no such score.
        """
        both, fires, on = self._both.T, self._fires, self._on[:, None]
        if score == "f1":
            value = 2 * both / (on + fires)
        elif score == "correlation":
            n = self.rows
            spread = on * (n - on) * (fires * (n - fires))
            value = (n * both - on * fires) / spread.sqrt()
        else:
            raise ValueError(f"score {score!r} was given, but f1 or correlation was expected")
        value = value.nan_to_num(0.0, 0.0, 0.0)
        feature, best = assign(value)
        feature = feature.masked_fill(~(best > 0), -1)
        return Matching(feature, torch.full_like(best, math.nan), score)


def assign(score: Tensor) -> tuple[Tensor, Tensor]:
    """Assigns columns to rows of `score` `[n, d_sae]` one to one, with the largest sum.

    Returns:
        The column of each row, -1 for none, and its score, NaN for none.
    """
    from scipy.optimize import linear_sum_assignment

    true, feature = map(torch.from_numpy, linear_sum_assignment(score.numpy(), maximize=True))
    index = torch.full((len(score),), -1, dtype=torch.int64)
    index[true] = feature
    value = torch.full((len(score),), math.nan, dtype=torch.float64)
    value[true] = score[true, feature]
    return index, value


def cosines(directions: Tensor, W_dec: Tensor) -> Tensor:
    """Returns `[n_true, d_sae]` float64 on CPU."""
    if directions.shape[1] != W_dec.shape[1]:
        raise ValueError(
            f"directions have width {directions.shape[1]} and W_dec {W_dec.shape[1]}; "
            "expected the same"
        )
    a, b = (normalize(t.detach().cpu().double(), dim=1) for t in (directions, W_dec))
    cosine = a @ b.T
    if not bool(torch.isfinite(cosine).all()):
        raise ValueError("W_dec or directions hold a value that is not finite; nothing to match")
    return cosine
