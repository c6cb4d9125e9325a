"""From a configuration to a source that is scaled, planted and measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.activations.sources import Gaussian
from topk_ortho.activations import prepare
from topk_ortho.activations.scaling import first_rows, total_variance
from topk_ortho.config import ConfigError, PlantConfig, SyntheticConfig, TrainConfig

PLANT = PlantConfig(enabled=True, roots=2, children=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """3,000 activations with total variance 16 * 300 and mean 7."""
    generator = np.random.default_rng(0)
    for shard in range(3):
        x = generator.normal(7, 300**0.5, size=(1000, 16)).astype(np.float32)
        np.save(tmp_path / f"shard{shard}.npy", x)
    return tmp_path


def files(folder: Path, **changes: object) -> TrainConfig:
    return TrainConfig(activations="files", data=folder, **changes)


def test_files_are_scaled_to_total_variance_5(folder: Path) -> None:
    got = prepare(files(folder))
    assert got.variance == pytest.approx(5, rel=1e-9)
    assert total_variance(first_rows(got.source)) == pytest.approx(5, rel=1e-5)
    assert got.scale == pytest.approx((5 / 4800) ** 0.5, rel=0.05)
    torch.testing.assert_close(got.mean, first_rows(got.source).mean(0), rtol=1e-4, atol=1e-5)
    assert got.source.truth is None
    assert got.language is None


def test_a_language_models_source_of_an_earlier_call_is_used_again() -> None:
    config = TrainConfig(activations="language-model", model="/nowhere", hook="nowhere")
    source = Gaussian(variance=80.0)
    got = prepare(config, language=source)
    assert got.language is source
    assert got.scale == pytest.approx((5 / 80) ** 0.5, rel=0.05)
    assert got.variance == pytest.approx(5, rel=1e-9)
    torch.testing.assert_close(got.source.block(1, "eval").x, source.block(1, "eval").x * got.scale)
    torch.testing.assert_close(got.mean, torch.full((4,), 3 * got.scale), rtol=0, atol=0.03)


def test_planting_comes_after_scaling_and_is_measured(folder: Path) -> None:
    plain, got = prepare(files(folder)), prepare(files(folder, plant=PLANT))
    assert got.scale == plain.scale
    assert got.source.truth.parent.tolist() == [-1, -1, 0, 0, 1, 1]
    block, raw = got.source.block(0, "train"), plain.source.block(0, "train")
    alone = block.fired.sum(1) == 1
    magnitude = (block.x - raw.x)[alone].norm(dim=1)
    assert float(magnitude.mean()) == pytest.approx(0.447 * 5**0.5, rel=0.05)
    assert torch.equal(block.x[~block.fired.any(1)], raw.x[~block.fired.any(1)])
    x = first_rows(got.source)
    assert got.variance == pytest.approx(total_variance(x))
    assert got.variance > 5.1
    torch.testing.assert_close(got.mean, x.double().mean(0).float())


def test_synthetic_data_is_taken_as_it_stands() -> None:
    got = prepare(TrainConfig(synthetic=SyntheticConfig(preset="forest-256")))
    assert got.scale == 1.0
    assert got.variance == pytest.approx(4.9, abs=0.2)
    assert got.variance == total_variance(first_rows(got.source))
    torch.testing.assert_close(got.mean, first_rows(got.source).double().mean(0).float())
    assert got.source.truth is not None
    assert got.language is None


def test_synthetic_data_can_be_planted_in() -> None:
    got = prepare(TrainConfig(plant=PLANT))
    assert got.source.truth.parent.tolist() == [-1, -1, 0, 0, 1, 1]
    assert got.variance > prepare(TrainConfig()).variance


def test_the_seed_is_the_runs() -> None:
    a, b, c = (prepare(TrainConfig(seed=seed)).source.block(0, "train").x for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_data_that_does_not_vary_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "shard.npy", np.full((100, 4), 2.5, dtype=np.float32))
    with pytest.raises(ConfigError, match=r"total variance of 0\.0, but data that varies"):
        prepare(files(tmp_path))
