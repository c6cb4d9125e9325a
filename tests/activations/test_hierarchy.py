"""Known hierarchies: how often, with whom, in which direction and how strongly features fire."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from topk_ortho.activations.hierarchy import Hierarchy, build_hierarchy, stream_seed

ROOTS, CHILDREN, INDEPENDENT = 3, 4, 2
ROWS = 40_000


def small(**changes: Any) -> Hierarchy:
    options = {
        "d_in": 32,
        "roots": ROOTS,
        "children": CHILDREN,
        "root_rates": (0.5, 0.125),
        "independent": INDEPENDENT,
        "independent_rates": (0.3, 0.1),
        "child_probability": 0.7,
        "sibling_exponent": 0.5,
        "parent_child_cosine": 0.0,
        "magnitude_mean": 1.0,
        "magnitude_std": 0.25,
        "seed": 0,
    }
    return build_hierarchy(**(options | changes))


def sample(hierarchy: Hierarchy, rows: int = ROWS, seed: int = 1) -> tuple[Tensor, Tensor]:
    return hierarchy.sample(rows, torch.Generator().manual_seed(seed))


def within_5_sigma(hits: float, n: float, rate: float) -> bool:
    return abs(hits - n * rate) <= 5 * math.sqrt(n * rate * (1 - rate))


def family(fired: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`(roots [rows, ROOTS], children [rows, ROOTS, CHILDREN], independent)`."""
    end = ROOTS * (1 + CHILDREN)
    return fired[:, :ROOTS], fired[:, ROOTS:end].unflatten(1, (ROOTS, CHILDREN)), fired[:, end:]


def test_everything_fires_as_often_as_configured() -> None:
    fired, _ = sample(small())
    root, child, independent = family(fired)
    weight = [r**-0.5 for r in range(1, CHILDREN + 1)]
    for r, rate in enumerate((0.5, 0.25, 0.125)):  # geometric from first to last
        on = int(root[:, r].sum())
        assert within_5_sigma(on, ROWS, rate)
        assert within_5_sigma(int(child[:, r].any(1).sum()), on, 0.7)
        for c in range(CHILDREN):
            share = weight[c] / sum(weight)
            assert within_5_sigma(int(child[:, r, c].sum()), on, 0.7 * share)
    for f, rate in enumerate((0.3, 0.1)):
        assert within_5_sigma(int(independent[:, f].sum()), ROWS, rate)


def test_siblings_exclude_each_other_and_need_their_parent() -> None:
    root, child, _ = family(sample(small())[0])
    assert child.sum(2).max() == 1
    assert not (child.any(2) & ~root).any()
    assert (root & ~child.any(2)).any()


def test_families_are_independent_of_each_other() -> None:
    root, _, independent = family(sample(small())[0])
    for a, b, rate in ((root[:, 0], root[:, 1], 0.125), (root[:, 0], independent[:, 0], 0.15)):
        assert within_5_sigma(int((a & b).sum()), ROWS, rate)


def test_an_only_child_takes_all_of_the_probability() -> None:
    fired, _ = sample(small(children=1, independent=0))
    root, child = fired[:, :ROOTS], fired[:, ROOTS:]
    assert fired.shape[1] == 2 * ROOTS
    assert within_5_sigma(int(child.sum()), int(root.sum()), 0.7)


@pytest.mark.parametrize(
    ("changes", "n_true"),
    [({"children": 0}, 5), ({"independent": 0}, 15), ({"roots": 0}, 2), ({"roots": 1}, 7)],
)
def test_any_part_may_be_missing(changes: dict[str, int], n_true: int) -> None:
    hierarchy = small(**changes)
    fired, x = sample(hierarchy, 50)
    assert fired.shape == (50, n_true)
    assert x.shape == (50, 32)
    assert hierarchy.truth.directions.shape == (n_true, 32)
    assert hierarchy.truth.parent.shape == (n_true,)


def test_the_first_rate_is_that_of_a_single_root() -> None:
    assert small(roots=1).root_rate.tolist() == [0.5]


def test_parents_are_named() -> None:
    expected = [-1] * 3 + [0] * 4 + [1] * 4 + [2] * 4 + [-1] * 2
    assert small().truth.parent.tolist() == expected


@pytest.mark.parametrize("cosine", [0.0, 0.3, 0.9, -0.4])
def test_directions_are_unit_and_the_cosine_is_realised(cosine: float) -> None:
    truth = small(parent_child_cosine=cosine).truth
    torch.testing.assert_close(truth.directions.norm(dim=1), torch.ones(17))
    child = truth.parent >= 0
    got = (truth.directions[child] * truth.directions[truth.parent[child]]).sum(1)
    if cosine:
        torch.testing.assert_close(got, torch.full_like(got, cosine), rtol=0, atol=1e-6)
    else:
        assert got.abs().max() > 0.1  # left as they were drawn
    siblings = truth.directions[3:7] @ truth.directions[3:7].T
    assert (siblings - torch.eye(4)).abs().max() < 0.99


def code_of(hierarchy: Hierarchy, x: Tensor) -> Tensor:
    """Magnitudes again from the sum; there are fewer features than dimensions."""
    return x.double() @ torch.linalg.pinv(hierarchy.truth.directions.double())


@pytest.mark.parametrize(("mean", "std"), [(1.0, 0.25), (0.5, 0.5), (2.0, 0.0)])
def test_magnitudes_are_a_folded_normal(mean: float, std: float) -> None:
    hierarchy = small(magnitude_mean=mean, magnitude_std=std)
    fired, x = sample(hierarchy)
    code = code_of(hierarchy, x)
    torch.testing.assert_close(code[~fired], torch.zeros_like(code[~fired]), rtol=0, atol=1e-5)
    magnitude = code[fired]
    assert magnitude.min() >= -1e-5
    if std == 0:
        assert (magnitude - mean).abs().max() < 1e-5
        return
    below = 0.5 * math.erfc(mean / std / math.sqrt(2))
    expected = std * math.sqrt(2 / math.pi) * math.exp(-((mean / std) ** 2) / 2)
    expected += mean * (1 - 2 * below)
    spread = math.sqrt(mean**2 + std**2 - expected**2)
    n = magnitude.numel()
    assert abs(float(magnitude.mean()) - expected) < 5 * spread / math.sqrt(n)
    assert float(magnitude.std()) == pytest.approx(spread, rel=0.03)


def test_the_same_seeds_give_the_same_everything() -> None:
    a, b = small(), small()
    assert torch.equal(a.truth.directions, b.truth.directions)
    for one, other in zip(sample(a, 100), sample(b, 100), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(sample(a, 100)[0], sample(a, 100, seed=2)[0])
    assert not torch.equal(a.truth.directions, small(seed=1).truth.directions)


def test_stream_seeds_do_not_collide() -> None:
    seen = {stream_seed(a, b, c) for a in range(20) for b in range(20) for c in range(20)}
    seen |= {stream_seed(a, b) for a in range(20) for b in range(20)}
    assert len(seen) == 20**3 + 20**2
    assert all(0 <= seed < 2**63 for seed in seen)
