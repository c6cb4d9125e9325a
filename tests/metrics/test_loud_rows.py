"""What the loudest one percent of the rows hold."""

from __future__ import annotations

import pytest
import torch

from topk_ortho.metrics.loud_rows import loud_rows, loudest, score_share
from topk_ortho.metrics.reconstruction import Reconstruction


def rows(n: int, *, loud: int = 0, times: float = 1.0) -> torch.Tensor:
    """`[n, 16]` of standard normal rows, every `n / loud`-th of them `times` as large."""
    x = torch.randn(n, 16, generator=torch.Generator().manual_seed(0))
    if loud:
        x[:: n // loud] *= times
    return x


def test_rows_of_one_size_share_the_variance() -> None:
    found = loud_rows(rows(2000))
    assert found.variance_share == pytest.approx(0.02, abs=0.008)
    assert found.norm_median == pytest.approx(4, rel=0.05)
    assert "of 2,000 rows hold 2% of the variance, the loudest 0.1 % 0% (norm 3.9" in str(found)


def test_massive_activations_hold_the_variance() -> None:
    found = loud_rows(rows(2000, loud=16, times=300))
    assert found.variance_share > 0.99
    assert found.norm_max > 1000 > 10 > found.norm_median


@pytest.mark.parametrize(("n", "count"), [(1, 1), (40, 1), (149, 1), (250, 2), (1000, 10)])
def test_one_percent_is_at_least_one_row(n: int, count: int) -> None:
    x = rows(n)
    assert sorted(loudest(x).tolist()) == sorted(x.norm(dim=1).argsort()[-count:].tolist())


def test_rows_without_variance_hold_none_of_it() -> None:
    assert loud_rows(torch.ones(300, 4)).variance_share == 0
    assert loud_rows(1e30 * rows(300)).variance_share < 0.1


def test_score_share_is_that_of_all_pairs() -> None:
    acts = torch.rand(300, 6, generator=torch.Generator().manual_seed(1)).double()
    acts[7] *= 100
    loud = torch.tensor([7, 8, 9])
    scores = torch.stack([torch.combinations(row).prod(1).sum() for row in acts])
    expected = float(scores[loud].sum() / scores.sum())
    assert score_share(acts.sum(1), acts.square().sum(1), loud) == pytest.approx(expected)
    assert expected > 0.9
    single = torch.eye(6, dtype=torch.float64)
    assert score_share(single.sum(1), single.square().sum(1), loud[:0]) is None


def test_explained_variance_of_loud_rows_alone_is_told() -> None:
    """One row in 128 with 300 times the norm, reconstructed; nothing of the others is."""
    x = rows(12_800, loud=100, times=300)
    loud = x.norm(dim=1) > 100
    meter = Reconstruction(16, 3)
    for part, on in zip(x.split(999), loud.split(999), strict=True):
        acts = torch.stack([on.float(), on.float(), 0 * on.float()], dim=1)
        meter.update(part, part * on[:, None], acts)
    found = meter.result()
    assert found["explained_variance"] > 0.99
    assert found["explained_variance_quiet_rows"] == pytest.approx(0, abs=1e-3)
    assert found["variance_share_top_rows"] > 0.99
    assert found["score_share_top_rows"] == 1
