"""Figures over batches equal one pass over everything, and undefined ones are None."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topk_ortho.config import ConfigError
from topk_ortho.metrics import reconstruction
from topk_ortho.metrics.reconstruction import (
    Reconstruction,
    decoder_geometry,
    frequency_histogram,
)


def loudest(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of all rows but the loudest one percent, and of those."""
    order = np.linalg.norm(x, axis=1).argsort()
    cut = len(x) - max(1, round(len(x) / 100))
    return order[:cut], order[cut:]


def naive(x: np.ndarray, x_hat: np.ndarray, acts: np.ndarray) -> dict[str, float]:
    x, x_hat, acts = (a.astype(np.float64) for a in (x, x_hat, acts))
    error = ((x - x_hat) ** 2).sum()
    norm, norm_hat = np.linalg.norm(x, axis=1), np.linalg.norm(x_hat, axis=1)
    frequency = (acts > 0).mean(0)
    quiet, loud = loudest(x)
    centred = ((x - x.mean(0)) ** 2).sum(1)
    scores = np.array([sum(a * b for a, b in itertools.combinations(row, 2)) for row in acts])
    return {
        "explained_variance_quiet_rows": 1
        - ((x - x_hat)[quiet] ** 2).sum() / ((x[quiet] - x[quiet].mean(0)) ** 2).sum(),
        "variance_share_top_rows": centred[loud].sum() / centred.sum(),
        "score_share_top_rows": scores[loud].sum() / scores.sum(),
        "rows": len(x),
        "mse": error / x.size,
        "l2": error / len(x),
        "explained_variance": 1 - error / ((x - x.mean(0)) ** 2).sum(),
        "cosine_similarity": ((x * x_hat).sum(1) / (norm * norm_hat)).mean(),
        "l2_ratio": (norm_hat / norm).mean(),
        "relative_reconstruction_bias": (x_hat**2).sum() / (x * x_hat).sum(),
        "l0": (acts > 0).sum(1).mean(),
        "l1": acts.sum(1).mean(),
        "dead_features": (frequency == 0).mean(),
        "alive": (frequency > 0).sum(),
        "dense_features": (frequency > 0.1).mean(),
    }


def data(seed: int, rows: int, offset: float = 0.0) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(rows, 5)) + offset).astype(np.float32)
    x_hat = (x + rng.normal(size=x.shape) * 0.3).astype(np.float32)
    rate = np.array([0.0, 0.05, 0.3, 0.9, 0.1, 0.5, 0.02])
    acts = (rng.random((rows, 7)) * (rng.random((rows, 7)) < rate)).astype(np.float32)
    return tuple(map(torch.from_numpy, (x, x_hat, acts)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 60), max_size=5))
def test_batches_of_any_size_equal_one_pass(seed: int, cuts: list[int]) -> None:
    x, x_hat, acts = data(seed, 60)
    meter = Reconstruction(5, 7)
    edges = [0, *sorted(cuts), 60]
    for first, last in itertools.pairwise(edges):
        meter.update(x[first:last], x_hat[first:last], acts[first:last])
    assert meter.result() == pytest.approx(naive(x.numpy(), x_hat.numpy(), acts.numpy()))
    assert meter.frequency.tolist() == (acts > 0).double().mean(0).tolist()


@pytest.mark.parametrize("rows", [1000, 1537])
def test_more_rows_than_are_held_change_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topk_ortho.metrics.loud_rows.LIMIT", 20)
    x, x_hat, acts = data(3, rows)
    meter = Reconstruction(5, 7)
    for first in range(0, rows, 17):
        part = slice(first, first + 17)
        meter.update(x[part], x_hat[part], acts[part])
        meter.result()  # may be read at any time
    assert meter.result() == pytest.approx(naive(x.numpy(), x_hat.numpy(), acts.numpy()))


def test_tiles_within_a_batch_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = data(0, 50)
    meter = Reconstruction(5, 7)
    monkeypatch.setattr(reconstruction, "_TILE_ELEMENTS", 21)  # 3 rows
    meter.update(*batch)
    assert meter.result() == pytest.approx(naive(*(t.numpy() for t in batch)))


def test_variance_far_from_the_origin_does_not_cancel() -> None:
    batches = [data(seed, 40, offset=1e5) for seed in range(4)]
    meter = Reconstruction(5, 7)
    for batch in batches:
        meter.update(*batch)
    whole = naive(*(torch.cat(t).numpy() for t in zip(*batches, strict=True)))
    assert meter.result()["explained_variance"] == pytest.approx(whole["explained_variance"])


def test_explained_variance_is_against_the_mean_of_all_batches() -> None:
    # Against each batch's own mean these rows would have no variance at all.
    meter = Reconstruction(1, 1)
    for value in (0.0, 2.0):
        x = torch.full((3, 1), value)
        meter.update(x, x - 0.5, torch.ones(3, 1))
    assert meter.result()["explained_variance"] == pytest.approx(1 - 0.25)


def test_what_is_not_defined_is_none() -> None:
    meter = Reconstruction(2, 1)
    meter.update(torch.zeros(4, 2), torch.ones(4, 2), torch.zeros(4, 1))
    result = meter.result()
    assert result["explained_variance"] is None
    assert result["cosine_similarity"] is None
    assert result["l2_ratio"] is None
    assert result["dead_features"] == 1.0

    equal = Reconstruction(2, 1)
    equal.update(torch.full((7, 2), 0.1), torch.zeros(7, 2), torch.zeros(7, 1))
    assert equal.result()["explained_variance"] is None
    assert equal.result()["cosine_similarity"] == 0.0  # a reconstruction of 0 has no direction


def test_no_rows_is_an_error() -> None:
    with pytest.raises(ConfigError, match="0 rows"):
        Reconstruction(2, 2).result()


@pytest.mark.parametrize("which", ["x", "x_hat", "acts"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_named_and_not_counted(which: str, value: float) -> None:
    batch = dict(zip(("x", "x_hat", "acts"), data(0, 4), strict=True))
    batch[which][2, 1] = value
    meter = Reconstruction(5, 7)
    with pytest.raises(ValueError, match=f"^{which} holds"):
        meter.update(**batch)
    assert meter.rows == 0


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, x_hat, acts = data(0, 4)
    with pytest.raises(ValueError, match="acts has shape"):
        Reconstruction(5, 7).update(x, x_hat, acts[:3])


def test_low_precision_is_summed_in_float64() -> None:
    meter = Reconstruction(1, 1)
    ones = torch.ones(70_000, 1, dtype=torch.float16)
    meter.update(ones, ones, ones)  # 70,000 is beyond the largest float16
    assert meter.result()["l1"] == 1.0


def brute_geometry(W: np.ndarray) -> tuple[float, float]:
    unit = W / np.maximum(np.linalg.norm(W, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    off = ~np.eye(len(W), dtype=bool)
    return np.abs(cosine[off]).mean(), np.where(off, cosine, -np.inf).max(1).mean()


@pytest.mark.parametrize("tile", [1, 3, 64])
def test_geometry_in_tiles_equals_brute_force(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "_COSINE_TILE", tile)
    W = torch.randn(11, 4, generator=torch.Generator().manual_seed(0))
    W[3] = 0
    before = W.clone()
    got = decoder_geometry(W)
    assert (got["c_dec"], got["mean_max_cos"]) == pytest.approx(brute_geometry(W.numpy()))
    assert decoder_geometry(W, sample=99) == got
    assert torch.equal(W, before)


def test_geometry_of_a_sample_is_of_those_rows_against_all() -> None:
    W = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
    unit = torch.nn.functional.normalize(W, dim=1)
    rows = [0, 4, 8]
    cosine = (unit @ unit.T)[rows]
    cosine[range(3), rows] = -9.0
    got = decoder_geometry(W, sample=3)
    assert got["mean_max_cos"] == pytest.approx(cosine.amax(1).mean().item())
    cosine[range(3), rows] = 0.0
    assert got["c_dec"] == pytest.approx(cosine.abs().sum().item() / 33)


def test_one_feature_has_no_geometry() -> None:
    assert decoder_geometry(torch.ones(1, 3)) == {"c_dec": None, "mean_max_cos": None}
    with pytest.raises(ValueError, match="sample is 0"):
        decoder_geometry(torch.ones(3, 3), sample=0)


def test_frequency_histogram_puts_each_feature_in_its_half_decade():
    rows = 1000
    fired = torch.tensor([0, 1, 3, 4, 10, 100, 316, 317, 1000, 0])
    got = frequency_histogram(fired, rows)
    edges = got["log10_edges"]
    assert edges[0] == -3
    assert edges[-1] == 0
    assert got["never"] == 2
    by_hand = [0] * (len(edges) - 1)
    for count in fired[fired > 0].tolist():
        share = math.log10(count / rows)
        low = max(i for i, edge in enumerate(edges[:-1]) if edge <= share + 1e-12)
        by_hand[low] += 1
    assert got["features"] == by_hand


@pytest.mark.parametrize("rows", [1, 2, 7, 10, 100, 999, 1000, 30_000, 10**9])
def test_frequency_histogram_has_room_for_the_rarest(rows):
    got = frequency_histogram(torch.tensor([1, rows]), rows)
    assert sum(got["features"]) == 2
    assert len(got["features"]) == len(got["log10_edges"]) - 1
    assert got["features"][-1] >= 1
    with pytest.raises(ValueError, match="at least 1"):
        frequency_histogram(torch.tensor([0]), 0)
