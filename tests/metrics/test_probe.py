"""The probe is least squares, its threshold the best there is, and its gate a rank test."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from topk_ortho.metrics.probe import LinearProbe, _best_threshold, beats


def rows(n: int, seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=rng) @ torch.randn(6, 6, generator=rng) + 3


def test_it_is_least_squares_with_a_threshold():
    x, held_out = rows(400, 0), rows(300, 1)
    on, held_on = x[:, 0] + 0.3 * x[:, 1] > 4, held_out[:, 0] + 0.3 * held_out[:, 1] > 4
    design = np.column_stack([x.double().numpy(), np.ones(len(x))])
    weight = np.linalg.lstsq(design, on.double().numpy(), rcond=None)[0]
    score = design @ weight
    best = max(score, key=lambda t: f1(score >= t, on.numpy()))
    called = held_out.double().numpy() @ weight[:-1] + weight[-1] >= best
    expected = f1(called, held_on.numpy())
    assert 0.5 < expected < 1
    assert LinearProbe(x, held_out).f1(on, held_on) == pytest.approx(expected, abs=1e-3)


def f1(called: np.ndarray, on: np.ndarray) -> float:
    return 2 * (called & on).sum() / (called.sum() + on.sum())


@pytest.mark.parametrize("seed", range(20))
def test_no_threshold_is_better(seed):
    rng = np.random.default_rng(seed)
    score, on = rng.integers(0, 6, 30).astype(np.float32), rng.random(30) < 0.3
    on[0] = True
    threshold = float(_best_threshold(torch.from_numpy(score), torch.from_numpy(on)))
    assert f1(score >= threshold, on) == pytest.approx(max(f1(score >= t, on) for t in score))


def test_dimensions_that_never_change_or_repeat_do_no_harm():
    x, held_out = rows(200, 0), rows(200, 1)
    on, held_on = x[:, 0] > 3, held_out[:, 0] > 3
    plain = LinearProbe(x, held_out).f1(on, held_on)
    wide = [torch.cat([a, torch.full((len(a), 1), 2.0), a[:, :1]], dim=1) for a in (x, held_out)]
    assert LinearProbe(*wide).f1(on, held_on) == pytest.approx(plain, abs=0.01)


def test_a_class_without_a_token_has_no_f1():
    nowhere = torch.zeros(50, dtype=torch.bool)
    assert LinearProbe(rows(50, 0), rows(50, 1)).f1(nowhere, nowhere) == 0


def test_rows_that_cannot_be_probed_are_refused():
    with pytest.raises(ValueError, match="of one width"):
        LinearProbe(torch.zeros(0, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="not finite"):
        LinearProbe(torch.full((2, 3), torch.nan), torch.zeros(2, 3))


def test_the_gate_is_to_be_above_all():
    assert beats(0.7, [0.6, 0.65])
    assert not beats(0.65, [0.6, 0.65])
    assert not beats(1.0, [])
