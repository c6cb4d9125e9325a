"""The agreement of dictionaries against its definition, and against chance."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from topk_ortho.metrics.agreement import agreement, seed_agreement, turned


def rows(seed: int, n: int = 5, d: int = 4) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def naive(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """Every assignment tried, in numpy float64."""
    A, B = (W.double().numpy() for W in (a, b))
    A, B = (W / np.linalg.norm(W, axis=1, keepdims=True) for W in (A, B))
    cosine = A @ B.T
    n = len(A)
    mcc = max(sum(cosine[i, p[i]] for i in range(n)) / n for p in permutations(range(n)))
    nearest = (sum(max(r) for r in cosine) / n + sum(max(c) for c in cosine.T) / n) / 2
    return mcc, nearest


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_its_definition(seed: int) -> None:
    a, b = rows(seed), 3 * rows(seed + 10)
    found = agreement(a, b)
    assert (found.mcc, found.nearest) == pytest.approx(naive(a, b))


def test_a_permutation_of_the_same_rows_agrees_fully_and_signs_count() -> None:
    a = rows(0, 40, 16)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    found = agreement(a, a[order])
    assert (found.mcc, found.nearest) == pytest.approx((1.0, 1.0))
    assert agreement(a, -a).mcc < 0.9


@pytest.mark.parametrize("null", ["rotation", "reflection"])
def test_turning_keeps_cosines_within_and_breaks_those_between(null) -> None:
    a = rows(3, 60, 24)
    b = turned(a, beside=a, null=null, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(b @ b.T, a.double() @ a.double().T)
    assert agreement(a, b).mcc < 0.6


def test_reflections_keep_the_subspace_and_rotations_do_not() -> None:
    a = rows(4, 60, 24)
    a[:, 6:] = 0
    for null, share in (("reflection", 1.0), ("rotation", 0.3)):
        b = turned(a, beside=a, null=null, generator=torch.Generator().manual_seed(0))
        inside = b[:, :6].norm() / b.norm()
        assert float(inside) == pytest.approx(1.0) if share == 1 else inside < 0.8


def test_seeds_of_one_truth_agree_more_than_chance() -> None:
    truth = rows(5, 30, 20)
    found = seed_agreement([truth + 0.2 * rows(s, 30, 20) for s in (6, 7, 8)], draws=4)
    assert (len(found.pairs), len(found.null)) == (3, 4)
    assert min(p.mcc for p in found.pairs) > 0.9 > 0.6 > max(p.mcc for p in found.null)
    assert seed_agreement([truth, truth], draws=0).null == ()


def test_one_dictionary_or_two_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="two or more"):
        seed_agreement([rows(0)])
    with pytest.raises(ValueError, match="width"):
        agreement(rows(0), rows(0, 5, 3))
