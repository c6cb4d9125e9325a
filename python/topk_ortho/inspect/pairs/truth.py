"""The true features that the features of an SAE match, where the truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.functional import normalize

from topk_ortho.activations.source import GroundTruth
from topk_ortho.metrics.ground_truth import match

Kind = Literal["parent", "child", "independent"]
Relation = Literal[
    "i is the parent of j", "j is the parent of i", "siblings", "unrelated", "unmatched"
]


@dataclass(frozen=True)
class TrueFeature:
    """A true feature beside a feature of the SAE.

    Attributes:
        index: which one.
        kind: `parent` if it has children, `child` if it has a parent, else `independent`.
        parent: its parent's index, None for none.
        cosine: of the feature's decoder row with its direction.
    """

    index: int
    kind: Kind
    parent: int | None
    cosine: float


@dataclass(frozen=True)
class Identity:
    """The true features behind one feature.

    Attributes:
        matched: by Hungarian assignment over all features, None for one that was left over.
        nearest: the true feature with the largest cosine.
    """

    matched: TrueFeature | None
    nearest: TrueFeature


def identify(W_dec: Tensor, truth: GroundTruth, features: Sequence[int]) -> dict[int, Identity]:
    """Returns the true features behind some features.

    Args:
        W_dec: `[d_sae, d_in]`.
        truth: of the data.
        features: indices into `W_dec`.
    """
    feature_of, cosine_of = match(W_dec, truth.directions)
    true_of = {int(f): t for t, f in enumerate(feature_of) if f >= 0}
    directions = normalize(truth.directions.double(), dim=1)
    found = {}
    for feature in features:
        true = true_of.get(feature)
        cosine = directions @ normalize(W_dec[feature].double(), dim=0)
        nearest = int(cosine.argmax())
        found[feature] = Identity(
            matched=None if true is None else _described(truth, true, float(cosine_of[true])),
            nearest=_described(truth, nearest, float(cosine[nearest])),
        )
    return found


def relation(i: Identity, j: Identity) -> Relation:
    """Returns how the matches of a pair's features are related in the hierarchy."""
    a, b = i.matched, j.matched
    if a is None or b is None:
        return "unmatched"
    if b.parent == a.index:
        return "i is the parent of j"
    if a.parent == b.index:
        return "j is the parent of i"
    return "siblings" if a.parent is not None and a.parent == b.parent else "unrelated"


def _described(truth: GroundTruth, index: int, cosine: float) -> TrueFeature:
    parent = int(truth.parent[index])
    kind: Kind = "child" if parent >= 0 else "independent"
    if bool((truth.parent == index).any()):
        kind = "parent"
    return TrueFeature(index, kind, parent if parent >= 0 else None, cosine)
