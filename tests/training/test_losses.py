"""The terms of the loss against obvious versions of them."""

from __future__ import annotations

import pytest
import torch

from tests.training.states import D_IN, D_SAE, state
from topk_ortho.sae import Forward
from topk_ortho.sparse.codes import Codes
from topk_ortho.training import losses


def test_reconstruction_sums_over_dimensions_and_averages_over_rows():
    x = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    x_hat = torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    assert losses.reconstruction(x, (x_hat,)) == (1 + 4 + 4) / 2
    assert losses.reconstruction(x, (x_hat, x)) == (1 + 4 + 4) / 4


def test_sparsity_is_the_l1_norm_of_a_row():
    acts = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
    codes, sae = Codes.of(acts), state(sae={"kind": "relu"}).sae
    assert sae.sparsity(Forward(acts, acts, codes, ())) == 3
    assert sae.sparsity(Forward(acts, codes.value, codes, ())) == 3


def naive_aux_k(sae, x, out: Forward, dead: list[int], k: int) -> torch.Tensor:
    total = torch.zeros(())
    for b in range(len(x)):
        best = sorted(dead, key=lambda n: -float(out.pre[b, n].detach()))[:k]
        x_hat = sum((out.pre[b, n].clamp(min=0) * sae.W_dec[n] for n in best), torch.zeros(D_IN))
        total = total + (x[b] - out.x_hat[-1][b].detach() - x_hat).pow(2).sum()
    return total / len(x)


@pytest.mark.parametrize("dead", [[3], [0, 5, 7, 11, 20], list(range(D_SAE))])
def test_aux_k_is_the_naive_sum(dead):
    s = state(sae={"aux_k": 3})
    x = s.buffer.next()
    out = s.sae.training_pass(x)
    value = losses.aux_k(s.sae, x, out, torch.tensor(dead))
    torch.testing.assert_close(value, naive_aux_k(s.sae, x, out, dead, 3))


def test_aux_k_moves_dead_features_alone():
    s = state()
    x = s.buffer.next()
    losses.aux_k(s.sae, x, s.sae.training_pass(x), torch.tensor([2, 9])).backward()
    moved = s.sae.W_dec.grad.abs().sum(1).nonzero().flatten().tolist()
    assert moved == [2, 9]
    assert s.sae.b_enc.grad.nonzero().flatten().tolist() in ([2, 9], [2], [9])
    assert s.sae.W_dec.grad.isfinite().all()


def test_steering_goes_the_right_way_and_is_bounded():
    assert losses.steer(1.0, l0=8, target=8) == 1
    assert losses.steer(1.0, l0=12, target=8) > 1
    assert losses.steer(1.0, l0=4, target=8) < 1
    assert losses.steer(1.0, l0=1e6, target=8) == losses.steer(1.0, l0=16, target=8)
    assert losses.steer(1.0, l0=0, target=8) == losses.steer(1.0, l0=4, target=8) > 0.9
