"""One constant for total variance 5, and the rows it is estimated on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.activations.sources import Endless, Gaussian, Numbered
from topk_ortho.activations.plant import PlantedSource
from topk_ortho.activations.scaling import ScaledSource, first_rows, total_variance
from topk_ortho.config import PlantConfig


def test_total_variance_is_that_of_numpy() -> None:
    x = torch.randn(500, 7, generator=torch.Generator().manual_seed(0)) * 3 + 1000
    expected = np.var(x.double().numpy(), axis=0).sum()
    assert total_variance(x) == pytest.approx(expected, rel=1e-12)


def test_first_rows_come_from_the_first_training_blocks() -> None:
    source = Numbered(5, 2, 9)
    assert first_rows(source, 6)[:, 0].tolist() == list(range(7))
    assert source.asked == [0, 1]
    assert len(first_rows(source, 7)) == 7
    assert len(first_rows(source, 8)) == 16
    assert len(first_rows(source, 1000)) == 16  # there are no more


def test_first_rows_of_endless_data_end() -> None:
    source = Endless(10)
    assert len(first_rows(source, 35)) == 40
    assert source.asked == [0, 1, 2, 3]


def test_a_scaled_source_multiplies_and_passes_the_rest_on() -> None:
    inner = PlantedSource(
        Gaussian(variance=1.0), PlantConfig(roots=1, children=1), variance=1.0, seed=0
    )
    source = ScaledSource(inner, 0.25)
    for split in ("train", "eval"):
        block, raw = source.block(3, split), inner.block(3, split)
        assert torch.equal(block.x, raw.x * 0.25)
        assert torch.equal(block.fired, raw.fired)
    assert (source.d_in, source.n_blocks("train")) == (4, 40)
    assert source.truth is inner.truth
