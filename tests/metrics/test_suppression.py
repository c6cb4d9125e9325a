"""Which pairs count as suppressed, on codes written by hand and against a slow twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from topk_ortho.metrics import suppression
from topk_ortho.metrics.suppression import MeanActivation, Suppression


def absorbed(*, child_cosine: float, n: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """Decoder, activations and codes: feature 0 is silent wherever feature 1 fires."""
    rest = (1 - child_cosine**2) ** 0.5
    W_dec = torch.tensor([[1.0, 0.0, 0.0], [child_cosine, rest, 0.0], [0.0, 0.0, 1.0]])
    x, acts = torch.zeros(n, 3), torch.zeros(n, 3)
    x[: n // 2, 0], acts[: n // 2, 0] = 2.0, 2.0
    x[n // 2 :, 0], x[n // 2 :, 1], acts[n // 2 :, 1] = 1.9, 1.0, 2.0
    return W_dec, x, acts


def measured(W_dec: Tensor, x: Tensor, acts: Tensor) -> list[list[int]]:
    mean = MeanActivation(acts.shape[1], acts.device)
    mean.update(acts)
    meter = Suppression(W_dec, torch.ones(W_dec.shape[1]), mean.result())
    for rows in range(0, len(x), 17):
        meter.update(1 + x[rows : rows + 17], acts[rows : rows + 17])
    return meter.pairs().tolist()


def test_a_parent_that_is_silent_where_its_child_fires_is_suppressed() -> None:
    assert measured(*absorbed(child_cosine=0.7)) == [[0, 1]]


def test_each_condition_is_needed() -> None:
    assert measured(*absorbed(child_cosine=0.05)) == []  # rows that do not overlap
    assert measured(*absorbed(child_cosine=0.7, n=38)) == []  # 19 tokens
    W_dec, x, acts = absorbed(child_cosine=0.7)
    fires = acts.clone()
    fires[30:46, 0] = 1.9  # on more than half of them the parent fires
    assert measured(W_dec, x, fires) == []
    weak = x.clone()
    weak[30:, 0] = 1.4  # below three quarters of the mean activation of 2
    assert measured(W_dec, weak, acts) == []


def test_norms_of_decoder_rows_change_nothing() -> None:
    W_dec, x, acts = absorbed(child_cosine=0.7)
    norm = torch.tensor([3.0, 0.5, 2.0])
    assert measured(W_dec * norm[:, None], x, acts / norm) == [[0, 1]]


@pytest.mark.parametrize("seed", [0, 1])
def test_it_counts_as_the_definition_says(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppression, "_TILE", 5)
    monkeypatch.setattr(suppression, "LEAST_SHARE", 0.2)
    rng = torch.Generator().manual_seed(seed)
    W_dec = torch.randn(14, 4, generator=rng)
    x = torch.randn(400, 4, generator=rng)
    acts = torch.relu(x @ W_dec.T - 1.0) * (torch.rand(400, 14, generator=rng) < 0.6)
    unit = W_dec / W_dec.norm(dim=1, keepdim=True)
    expected = []
    for i in range(14):
        mean = acts[acts[:, i] > 0, i].mean() * W_dec[i].norm()
        for j in range(14):
            there = (x @ unit[i] >= 0.75 * mean) & (acts[:, i] == 0)
            fires = acts[:, j] > 0
            close = i != j and float(unit[i] @ unit[j]) > 0.1
            if close and int(fires.sum()) >= 20 and int((there & fires).sum()) >= 0.2 * fires.sum():
                expected.append([i, j])
    assert expected
    assert sorted(measured(W_dec, x, acts)) == expected


def test_a_feature_that_never_fires_is_in_no_pair() -> None:
    W_dec, x, acts = absorbed(child_cosine=0.7)
    acts[:, 0] = 0
    assert measured(W_dec, x, acts) == []
