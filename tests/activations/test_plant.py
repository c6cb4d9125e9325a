"""Planting adds a known hierarchy to any activations, and nothing else."""

from __future__ import annotations

import pytest
import torch

from tests.activations.sources import Gaussian, Numbered
from topk_ortho.activations.plant import PlantedSource
from topk_ortho.config import PlantConfig

CONFIG = PlantConfig(enabled=True, roots=1, children=2)


def planted(config: PlantConfig = CONFIG, *, variance: float = 9.0, seed: int = 0) -> PlantedSource:
    return PlantedSource(Gaussian(variance=variance), config, variance=variance, seed=seed)


def added(source: PlantedSource, index: int = 0, split: str = "train") -> torch.Tensor:
    return source.block(index, split).x - source.source.block(index, split).x


@pytest.mark.parametrize("split", ["train", "eval"])
def test_the_sum_of_the_fired_directions_is_added_and_nothing_else(split: str) -> None:
    source = planted()
    fired = source.block(2, split).fired
    directions = source.truth.directions.double()
    code = added(source, 2, split).double() @ torch.linalg.pinv(directions)
    torch.testing.assert_close((code @ directions).float(), added(source, 2, split))
    assert code[~fired].abs().max() < 1e-4
    assert code[fired].min() >= 0
    assert fired.any()


@pytest.mark.parametrize("variance", [1.0, 9.0, 400.0])
def test_magnitudes_count_in_square_roots_of_the_total_variance(variance: float) -> None:
    config = PlantConfig(roots=1, children=0, rate_high=0.5, magnitude=0.6, magnitude_std=0.1)
    source = planted(config, variance=variance)
    magnitude = added(source).norm(dim=1)[source.block(0, "train").fired[:, 0]]
    assert float(magnitude.mean()) == pytest.approx(0.6 * variance**0.5, rel=0.02)
    assert float(magnitude.std()) == pytest.approx(0.06 * variance**0.5, rel=0.2)


def test_truth_has_the_directions_and_the_parents() -> None:
    source = planted(PlantConfig(roots=2, children=2, parent_child_cosine=0.3))
    truth = source.truth
    assert truth.parent.tolist() == [-1, -1, 0, 0, 1, 1]
    assert truth.directions.shape == (6, 4)
    torch.testing.assert_close(truth.directions.norm(dim=1), torch.ones(6))
    cosine = (truth.directions[2:] * truth.directions[truth.parent[2:]]).sum(1)
    torch.testing.assert_close(cosine, torch.full((4,), 0.3))
    fired = source.block(0, "train").fired
    assert fired.shape == (1000, 6)
    assert not (fired[:, 2:4].any(1) & ~fired[:, 0]).any()
    assert not (fired[:, 4:6].any(1) & ~fired[:, 1]).any()


def test_rates_go_from_high_to_low() -> None:
    source = planted(PlantConfig(roots=3, children=0, rate_high=0.4, rate_low=0.1))
    fired = torch.cat([source.block(n, "train").fired for n in range(20)]).float().mean(0)
    assert fired.tolist() == pytest.approx([0.4, 0.2, 0.1], abs=0.02)


def test_blocks_are_the_same_at_every_call_and_splits_differ() -> None:
    a, b = planted(), planted()
    a.block(3, "train")
    for index, split in ((1, "train"), (1, "eval"), (3, "train")):
        assert torch.equal(a.block(index, split).x, b.block(index, split).x)
        assert torch.equal(a.block(index, split).fired, b.block(index, split).fired)
    different = [a.block(1, "train").fired, a.block(1, "eval").fired, a.block(2, "train").fired]
    assert not torch.equal(different[0], different[1])
    assert not torch.equal(different[0], different[2])


def test_a_seed_of_its_own_outlives_the_runs_seed() -> None:
    fixed = PlantConfig(roots=1, children=2, seed=5)
    assert torch.equal(added(planted(fixed, seed=0)), added(planted(fixed, seed=1)))
    assert not torch.equal(added(planted(seed=0)), added(planted(seed=1)))


def test_blocks_of_any_size_and_the_sources_end_stay() -> None:
    source = PlantedSource(Numbered(5, 2, 9), CONFIG, variance=1.0, seed=0)
    assert [len(source.block(n, "train").fired) for n in range(3)] == [5, 2, 9]
    assert source.n_blocks("train") == 3
    assert source.d_in == 3
