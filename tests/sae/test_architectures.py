"""Every architecture against a naive forward pass, and what they all share."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.sae import naive
from topk_ortho.config import SAEConfig
from topk_ortho.sae import ARCHITECTURES, SAE, build
from topk_ortho.sae.matryoshka import default_prefixes

Kind = Literal["topk", "batch-topk", "relu", "jumprelu", "matryoshka"]
KINDS: tuple[Kind, ...] = get_args(Kind)
D_IN, D_SAE, BATCH = 7, 24, 11

every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind: Kind, *, k: float = 3, prefixes: tuple[int, ...] = (), seed: int = 0) -> SAE:
    config = SAEConfig(kind=kind, d_sae=D_SAE, k=k, prefixes=prefixes)
    return build(config, d_in=D_IN, seed=seed)


def trained(kind: Kind, **options: object) -> SAE:
    """Weights that are no longer the initial ones."""
    sae = make(kind, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.3
    return sae


def batch(rows: int = BATCH) -> Tensor:
    return torch.randn(rows, D_IN, generator=torch.Generator().manual_seed(2))


def weights(sae: SAE) -> dict[str, naive.Array]:
    return {name: p.detach().double().numpy() for name, p in sae.named_parameters()}


def close(got: Tensor, expected: naive.Array) -> None:
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_every_kind_of_the_configuration_is_built() -> None:
    assert ARCHITECTURES.names() == ("topk", "batch-topk", "relu", "jumprelu", "matryoshka")
    assert set(ARCHITECTURES.names()) == set(KINDS)
    for kind in KINDS:
        assert type(make(kind)) is ARCHITECTURES[kind]


@pytest.mark.parametrize(
    ("kind", "k"),
    [
        ("topk", 1),
        ("topk", 3),
        ("topk", D_SAE),  # the negative ones among them stay out
        ("batch-topk", 3),
        ("batch-topk", 2.4),
        ("batch-topk", D_SAE),
        ("matryoshka", 2.4),
        ("relu", 3),
        ("jumprelu", 3),
    ],
)
def test_forward_is_the_naive_one(kind: Kind, k: float) -> None:
    prefixes = (4, 9, D_SAE)
    sae, x = trained(kind, k=k, prefixes=prefixes), batch()
    got, W = sae.training_pass(x), weights(sae)
    pre = naive.pre_acts(x.double().numpy(), W)
    close(got.pre, pre)
    if kind == "relu":
        acts = naive.relu(pre)
    elif kind == "jumprelu":
        acts = naive.jumprelu(pre, np.exp(W["log_threshold"]))
    elif kind == "topk":
        acts = naive.topk(pre, int(k))
    else:
        acts = naive.batch_topk(pre, k)
    close(got.code, acts)
    stops = prefixes if kind == "matryoshka" else (D_SAE,)
    assert len(got.x_hat) == len(stops)
    for x_hat, stop in zip(got.x_hat, stops, strict=True):
        close(x_hat, naive.decode(acts, W, features=stop))
    close(sae.decode(got.code), naive.decode(acts, W, features=D_SAE))


@every_kind
def test_codes_are_never_negative(kind: Kind) -> None:
    sae = trained(kind, k=D_SAE)
    assert (sae.training_pass(batch()).pre < 0).any()
    assert (sae.training_pass(batch()).code >= 0).all()
    assert (sae.encode(batch()) >= 0).all()
    assert sae.activate(-torch.ones(4, D_SAE)).count_nonzero() == 0


def test_topk_of_ties_keeps_k() -> None:
    acts = make("topk", k=3).activate(torch.ones(5, D_SAE))
    assert acts.count_nonzero(1).tolist() == [3] * 5
    assert acts.max() == 1


@pytest.mark.parametrize("kind", ["batch-topk", "matryoshka"])
@pytest.mark.parametrize(
    ("k", "rows", "kept"), [(3, 11, 33), (2.5, 7, 18), (0.01, 5, 1), (0.5, 4, 2), (24, 2, 48)]
)
def test_batch_topk_keeps_so_many_in_the_whole_batch(
    kind: Kind, k: float, rows: int, kept: int
) -> None:
    sae = make(kind, k=k)
    pre = torch.rand(rows, D_SAE, generator=torch.Generator().manual_seed(0)) + 0.1
    assert sae.activate(pre).count_nonzero() == kept
    assert sae.activate(torch.ones(rows, D_SAE)).count_nonzero() == kept


def test_batch_topk_gives_rows_what_they_need() -> None:
    pre = torch.rand(4, D_SAE, generator=torch.Generator().manual_seed(0)) + 0.1
    pre[2] += 10
    acts = make("batch-topk", k=3).activate(pre)
    assert acts.count_nonzero(1).tolist() == [0, 0, 12, 0]


@pytest.mark.parametrize("kind", ["batch-topk", "matryoshka"])
def test_outside_training_one_threshold_decides(kind: Kind) -> None:
    sae, x = trained(kind), batch()
    pre = sae.pre_acts(x).detach()
    assert torch.equal(sae.encode(x), torch.relu(pre))  # 0 until it is calibrated
    sae.threshold.fill_(float(pre.flatten().sort().values[-20]))
    code = sae.encode(x)
    assert code.count_nonzero() == 19  # the threshold itself is not above it
    assert torch.equal(code, pre * (pre > sae.threshold))
    assert torch.equal(sae.thresholds(), sae.threshold.expand(D_SAE))
    one_by_one = torch.cat([sae.encode(row) for row in x.split(1)])
    torch.testing.assert_close(one_by_one, code)
    sae.threshold.fill_(-5.0)
    assert (sae.encode(x) >= 0).all()
    assert "threshold" in sae.state_dict()


def test_jumprelu_has_a_threshold_of_each_feature() -> None:
    sae, x = trained("jumprelu"), batch()
    torch.testing.assert_close(sae.thresholds(), sae.log_threshold.exp())
    assert torch.equal(sae.encode(x), sae.training_pass(x).code)


@every_kind
def test_calling_an_sae_returns_the_reconstruction(kind: Kind) -> None:
    """Outside training it is of the codes that `encode` returns, in training of the batch's."""
    sae, x = trained(kind), batch()
    in_training = sae(x)
    assert in_training.shape == x.shape
    assert torch.equal(in_training, sae.training_pass(x).x_hat[-1])
    assert torch.equal(in_training, sae.training_pass(x, sparse=False).x_hat[-1])
    in_training.square().sum().backward()
    assert sae.W_enc.grad is not None and sae.W_enc.grad.any()
    sae.eval()
    assert torch.equal(sae(x), sae.decode(sae.encode(x)))


def test_outside_training_a_row_is_reconstructed_alike_in_any_batch() -> None:
    """BatchTopK takes its threshold there, where in training rows compete with each other."""
    sae, x = trained("batch-topk"), batch()
    sae.calibrate([x])
    assert not torch.allclose(torch.cat([sae(row) for row in x.split(1)]), sae(x), atol=1e-3)
    sae.eval()
    torch.testing.assert_close(torch.cat([sae(row) for row in x.split(1)]), sae(x))


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_other_kinds_have_no_threshold(kind: Kind) -> None:
    sae, x = trained(kind), batch()
    assert sae.thresholds() is None
    assert torch.equal(sae.encode(x), sae.training_pass(x).code)


@every_kind
def test_the_start(kind: Kind) -> None:
    sae = make(kind)
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert sae.W_enc.data_ptr() != sae.W_dec.data_ptr()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(D_SAE))
    assert sae.b_enc.count_nonzero() == sae.b_dec.count_nonzero() == 0
    thresholds = {"log_threshold": (D_SAE,)} if kind == "jumprelu" else {}
    assert {name: tuple(p.shape) for name, p in sae.named_parameters()} == {
        "W_dec": (D_SAE, D_IN),
        "W_enc": (D_IN, D_SAE),
        "b_enc": (D_SAE,),
        "b_dec": (D_IN,),
    } | thresholds


def test_the_seed_alone_decides_the_start() -> None:
    first = make("topk", seed=3)
    before = torch.get_rng_state()
    for kind in KINDS:
        torch.rand(1)
        other = make(kind, seed=3)
        assert all(torch.equal(getattr(other, n), p) for n, p in first.named_parameters())
        assert not torch.equal(make(kind, seed=4).W_dec, first.W_dec)
    torch.set_rng_state(before)
    make("relu")
    assert torch.equal(torch.get_rng_state(), before)


@every_kind
def test_the_gradient_along_a_row_is_removed_and_nothing_else(kind: Kind) -> None:
    sae = make(kind)
    sae.remove_parallel_gradient_()  # without a gradient there is nothing to do
    (sae.training_pass(batch()).x_hat[-1] - batch()).square().sum().backward()
    before, row = sae.W_dec.grad.clone(), sae.W_dec.detach()
    sae.remove_parallel_gradient_()
    after = sae.W_dec.grad
    assert (before * row).sum(1).abs().max() > 0.1
    assert (after * row).sum(1).abs().max() < 1e-4
    torch.testing.assert_close(before - after, (before * row).sum(1, keepdim=True) * row)
    assert after.abs().max() > 0.1


@every_kind
def test_rows_come_back_to_unit_norm_and_zero_rows_stay(kind: Kind) -> None:
    sae = trained(kind)
    with torch.no_grad():
        sae.W_dec[5] = 0
        sae.W_dec[6] *= 1e4
    direction = sae.W_dec.detach().clone()
    sae.normalise_decoder_()
    norm = sae.W_dec.norm(dim=1)
    assert norm[5] == 0
    norm = torch.cat([norm[:5], norm[6:]])
    torch.testing.assert_close(norm, torch.ones(D_SAE - 1))
    cosine = torch.nn.functional.cosine_similarity(sae.W_dec, direction)
    torch.testing.assert_close(torch.cat([cosine[:5], cosine[6:]]), torch.ones(D_SAE - 1))
    assert sae.W_dec.requires_grad
    assert sae.W_dec.is_leaf


@pytest.mark.fault("a number beyond the range of its type")
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-23, 1e-13, 1e13, 1e20, 1e38])
def test_rows_of_any_norm_come_back_to_unit_norm(scale: float) -> None:
    sae = trained(KINDS[0])
    with torch.no_grad():
        sae.W_dec[3] *= scale
    rows = sae.W_dec.detach().double()
    sae.normalise_decoder_()
    wanted = (rows / rows.norm(dim=1, keepdim=True)).float()
    torch.testing.assert_close(sae.W_dec.detach(), wanted)


@every_kind
def test_only_active_features_get_a_gradient(kind: Kind) -> None:
    sae = trained(kind, k=2)
    got = sae.training_pass(batch())
    sum(x_hat.square().sum() for x_hat in got.x_hat).backward()
    fired = (got.code > 0).any(0)
    assert not fired.all() or kind == "relu"
    reached = sae.b_enc.grad != 0
    assert torch.equal(reached, fired)


@pytest.mark.parametrize(
    ("d_sae", "expected"),
    [(256, (32, 96, 256)), (512, (64, 192, 512)), (8, (1, 3, 8)), (3, (1, 3)), (2, (1, 2))],
)
def test_default_prefixes(d_sae: int, expected: tuple[int, ...]) -> None:
    assert default_prefixes(d_sae) == expected
    sae = build(SAEConfig(kind="matryoshka", d_sae=d_sae, k=1), d_in=D_IN, seed=0)
    assert sae.prefixes == expected


@every_kind
def test_a_batch_of_one_and_half_precision(kind: Kind) -> None:
    sae = make(kind)
    assert sae.training_pass(batch(1)).code.shape == (1, D_SAE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = sae.training_pass(batch())
    assert got.code.dtype == got.pre.dtype == torch.bfloat16
    assert torch.isfinite(got.x_hat[-1]).all()
