"""The forests of the method, and that every number of theirs is an option."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from topk_ortho.activations.scaling import total_variance
from topk_ortho.activations.synthetic import BLOCK_ROWS, PRESETS, SyntheticSource, resolve
from topk_ortho.config import SyntheticConfig

FOREST_240 = SyntheticConfig(preset="forest-240")
FOREST_256 = SyntheticConfig(preset="forest-256")


def tiny(**changes: object) -> SyntheticConfig:
    options = {"d_in": 8, "roots": 2, "children": 2, "independent": 3}
    return SyntheticConfig(**(options | changes))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("config", "n_true", "d_in", "l0", "variance"),
    [(FOREST_240, 240, 96, 8.8, 8.7), (FOREST_256, 256, 128, 4.83, 4.9)],
    ids=["forest-240", "forest-256"],
)
def test_presets_are_those_of_the_method(
    config: SyntheticConfig, n_true: int, d_in: int, l0: float, variance: float, seed: int
) -> None:
    source = SyntheticSource(config, seed=seed)
    assert source.d_in == d_in
    assert source.truth is not None
    assert source.truth.directions.shape == (n_true, d_in)
    blocks = [source.block(index, "train") for index in range(8)]
    fired = torch.cat([block.fired for block in blocks])
    assert float(fired.sum(1).float().mean()) == pytest.approx(l0, abs=0.06)
    assert total_variance(torch.cat([block.x for block in blocks])) == pytest.approx(
        variance, abs=0.2
    )


def test_noise_is_added_in_every_dimension() -> None:
    """What is left beside the features' span has the configured deviation."""
    source = SyntheticSource(tiny(d_in=32, noise=0.5), seed=0)
    block = source.block(0, "train")
    directions = source.truth.directions
    basis = torch.linalg.qr(directions.T, mode="complete")[0][:, len(directions) :]
    assert float((block.x @ basis).std()) == pytest.approx(0.5, rel=0.01)


CHANGED = {
    "d_in": 9,
    "roots": 3,
    "children": 3,
    "independent": 4,
    "root_rate_high": 0.9,
    "root_rate_low": 0.01,
    "independent_rate_high": 0.9,
    "independent_rate_low": 0.001,
    "child_probability": 0.3,
    "sibling_exponent": 2.0,
    "parent_child_cosine": 0.5,
    "magnitude_mean": 3.0,
    "magnitude_std": 0.01,
    "noise": 0.7,
    "directions_seed": 9,
}


def test_every_number_is_tried() -> None:
    assert set(CHANGED) == {field.name for field in fields(SyntheticConfig)} - {"preset"}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", CHANGED)
def test_every_number_changes_the_data(name: str, preset: str) -> None:
    before = SyntheticSource(tiny(preset=preset), seed=0).block(0, "train")
    after = SyntheticSource(tiny(preset=preset, **{name: CHANGED[name]}), seed=0)
    x = after.block(0, "train").x
    assert x.shape != before.x.shape or not torch.allclose(x, before.x, atol=1e-4)


@pytest.mark.parametrize("name", ["child_probability", "magnitude_std", "noise", "children"])
def test_zero_is_a_number_and_not_left_out(name: str) -> None:
    """0 must not fall back to the preset."""
    assert getattr(resolve(tiny(**{name: 0})), name) == 0
    zero = SyntheticSource(tiny(**{name: 0}), seed=0).block(0, "train")
    given = SyntheticSource(tiny(), seed=0).block(0, "train")
    assert not torch.equal(zero.x, given.x)


def test_a_number_left_out_comes_from_its_preset() -> None:
    assert resolve(FOREST_240) == PRESETS["forest-240"]
    assert resolve(FOREST_256) == PRESETS["forest-256"]
    assert resolve(SyntheticConfig(preset="forest-256", roots=5)).children == 5
    assert PRESETS["forest-240"] != PRESETS["forest-256"]


def test_blocks_are_the_same_in_any_order() -> None:
    first, second = SyntheticSource(tiny(), seed=3), SyntheticSource(tiny(), seed=3)
    asked = [(5, "train"), (0, "eval"), (2, "train"), (5, "train"), (0, "train")]
    got = {}
    for index, split in asked:
        block = first.block(index, split)
        if (index, split) in got:
            assert torch.equal(got[index, split].x, block.x)
        got[index, split] = block
    for index, split in reversed(asked):
        block = second.block(index, split)
        assert torch.equal(got[index, split].x, block.x)
        assert torch.equal(got[index, split].fired, block.fired)
        assert block.x.shape == (BLOCK_ROWS, 8)
        assert block.x.dtype == torch.float32
        assert block.fired.dtype == torch.bool


def test_no_row_is_in_two_blocks_or_in_both_splits() -> None:
    source = SyntheticSource(tiny(noise=0.1), seed=0)
    rows = torch.cat([source.block(n, split).x for split in ("train", "eval") for n in range(4)])
    assert len(torch.unique(rows, dim=0)) == 8 * BLOCK_ROWS
    assert source.n_blocks("train") is None


def test_the_seed_changes_all_and_the_directions_seed_the_directions() -> None:
    a = SyntheticSource(tiny(directions_seed=7), seed=0)
    b = SyntheticSource(tiny(directions_seed=7), seed=1)
    c = SyntheticSource(tiny(directions_seed=8), seed=0)
    assert torch.equal(a.truth.directions, b.truth.directions)
    assert not torch.equal(a.truth.directions, c.truth.directions)
    assert not torch.equal(a.block(0, "train").fired, b.block(0, "train").fired)
    assert torch.equal(a.block(0, "train").fired, c.block(0, "train").fired)
