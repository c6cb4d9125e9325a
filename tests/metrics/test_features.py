"""The table of features against loops."""

from __future__ import annotations

import itertools

import pytest
import torch

from topk_ortho.metrics import features
from topk_ortho.metrics.features import feature_table


def weights(d_sae: int, d_in: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(d_in, d_sae, generator=generator),
            torch.randn(d_sae, d_in, generator=generator))  # fmt: skip


@pytest.mark.parametrize("tile", [4, 512])
def test_it_is_what_a_loop_finds(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_TILE", tile)
    W_enc, W_dec = weights(13)
    truth = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    fired = torch.arange(13)
    table = feature_table(W_enc, W_dec, fired=fired, rows=20, directions=truth)
    unit, true = (torch.nn.functional.normalize(t.double(), dim=1) for t in (W_dec, truth))
    for n in range(13):
        others = {m: float(unit[n] @ unit[m]) for m in range(13) if m != n}
        best = max(others, key=lambda m: others[m])
        assert (table["neighbour"][n], table["cosine"][n]) == (
            best,
            pytest.approx(others[best], abs=1e-4),
        )
        found = [float(true[t] @ unit[n]) for t in range(3)]
        assert table["true_feature"][n] == found.index(max(found))
        assert table["true_cosine"][n] == pytest.approx(max(found), abs=1e-4)
        assert table["encoder_norm"][n] == pytest.approx(float(W_enc[:, n].norm()), abs=1e-4)
    edges, pairs = table["cosines"]["edges"], table["cosines"]["pairs"]
    cosines = [float(unit[i] @ unit[j]) for i, j in itertools.combinations(range(13), 2)]
    expected = [sum(low <= c < high for c in cosines) for low, high in itertools.pairwise(edges)]
    assert pairs == expected
    assert (table["fired"], table["rows"]) == (list(range(13)), 20)


def test_a_sample_leaves_the_others_open() -> None:
    W_enc, W_dec = weights(12)
    every = feature_table(W_enc, W_dec, fired=torch.zeros(12), rows=1)
    some = feature_table(W_enc, W_dec, fired=torch.zeros(12), rows=1, sample=3)
    taken = [0, 4, 8]
    for n in range(12):
        assert some["neighbour"][n] == (every["neighbour"][n] if n in taken else None)
    assert sum(some["cosines"]["pairs"]) == 3 * 11
    assert "true_feature" not in some


def test_one_feature_has_no_neighbour() -> None:
    table = feature_table(*weights(1), fired=torch.tensor([4]), rows=5)
    assert table["neighbour"] == table["cosine"] == [None]
    assert sum(table["cosines"]["pairs"]) == 0
