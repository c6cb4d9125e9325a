"""Scale, mean and variance are those of all shards, and what is loud or unlike is told."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from topk_ortho.activations import prepare
from topk_ortho.activations.files import FilesSource
from topk_ortho.activations.scaling import first_rows, sampled, total_variance
from topk_ortho.config import TrainConfig


def shards(folder: Path, *norms: float, rows: int = 60_000) -> Path:
    """A shard of `rows` rows of width 4 for each norm."""
    generator = np.random.default_rng(0)
    for n, norm in enumerate(norms):
        x = generator.normal(0, norm / 2, size=(rows, 4)).astype(np.float32)
        np.save(folder / f"{n:02d}.npy", x)
    return folder


def files(folder: Path) -> TrainConfig:
    return TrainConfig(activations="files", data=folder)


@pytest.mark.fault("shards of different units")
def test_shards_that_differ_by_a_hundred_are_scaled_together_and_told(tmp_path: Path) -> None:
    shards(tmp_path, 1, 1, 100, 100)
    with pytest.warns(UserWarning, match=r"02\.npy' on have a norm of .*00\.npy' on") as told:
        got = prepare(files(tmp_path))
    assert len(told) == 1
    assert got.scale == pytest.approx((5 / 5000) ** 0.5, rel=0.05)  # half of the rows at 100
    x = np.concatenate(
        [got.source.block(i, "train").x for i in range(got.source.n_blocks("train"))]
    )
    assert 4 < x.var(0).sum() < 6


def test_shards_of_one_unit_are_no_warning(tmp_path: Path) -> None:
    shards(tmp_path, 3, 4, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = prepare(files(tmp_path))
    assert got.loud is not None
    assert got.loud.variance_share < 0.1
    assert total_variance(first_rows(got.source)) == pytest.approx(5, rel=1e-5)


def test_rows_come_from_all_over_the_shards(tmp_path: Path) -> None:
    source = FilesSource(shards(tmp_path, *range(1, 13), rows=10_000))
    sample, x = sampled(source, 20_000)
    named = {source.where(block, "train", 0).rpartition(" of ")[2] for block in sample.blocks}
    assert len(named) >= 11  # of the last shard most is held out
    assert 19_000 < len(x) == sum(sample.lengths) <= 20_500
    assert (sample.rows(source) == x).all()
    last = len(x) - 1
    assert sample.origin(source, last) == source.where(
        sample.blocks[-1], "train", sample.lengths[-1] - 1
    )


@pytest.mark.parametrize("norms", [(1,), (1, 2)])
def test_one_shard_and_few_rows_are_read_from_the_beginning(norms, tmp_path: Path) -> None:
    rows = 60_000 if len(norms) == 1 else 10_000
    source = FilesSource(shards(tmp_path, *norms, rows=rows))
    x = first_rows(source)
    blocks = [source.block(index, "train").x for index in range(source.n_blocks("train"))]
    assert (x == np.concatenate(blocks)[: len(x)]).all()
    assert len(x) == (32_768 if len(norms) == 1 else sum(map(len, blocks)))


@pytest.mark.fault("massive activations")
def test_massive_activations_are_told_before_training(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(20_000, 8)).astype(np.float32)
    x[::128] *= 300
    np.save(tmp_path / "a.npy", x)
    with pytest.warns(UserWarning, match=r"loudest 1 % of 16,000 rows hold 100% of the variance"):
        got = prepare(files(tmp_path))
    assert got.loud is not None
    assert got.loud.norm_max > 500 > 10 > got.loud.norm_median
