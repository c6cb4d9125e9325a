"""C²R: pairs of nearest rows, weighed by how active they are, with a gradient to activations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.states import BATCH, D_IN, D_SAE, state
from topk_ortho import Orthogonality, OrthogonalityConfig
from topk_ortho.config import ConfigError, PairsConfig, PenaltyConfig
from topk_ortho.config.rules import check
from topk_ortho.config.toml import from_table
from topk_ortho.constraint.activity import PairWeights, activity
from topk_ortho.constraint.criteria import ortsae
from topk_ortho.sparse.codes import Codes
from topk_ortho.training.state import TrainState
from topk_ortho.training.step import train_step

PUBLISHED = {"threshold": 0.0, "gradient": "symmetric", "ramp": 0.0, "units": "absolute"}


def definition(acts: Tensor, W_dec: Tensor, chunks: tuple[Tensor, ...], alpha: float) -> float:
    """The loss of the paper in numpy float64, one feature after the other."""
    f, W = acts.detach().double().numpy(), W_dec.detach().double().numpy()
    norm = np.sqrt((f**2).sum(0))
    rows = W / np.linalg.norm(W, axis=1, keepdims=True)
    total = 0.0
    for chunk in chunks:
        for i in chunk.tolist():
            cosine, j = max((float(rows[i] @ rows[j]), j) for j in chunk.tolist() if j != i)
            total += max(cosine, 0.0) ** 2 * (norm[i] + norm[j]) ** alpha
    return total / len(W)


def differentiable(acts: Tensor, W_dec: Tensor, chunks: tuple[Tensor, ...], alpha: float) -> Tensor:
    """The same for autograd, matrix and all."""
    rows = W_dec / W_dec.norm(dim=1, keepdim=True)
    norm = acts.norm(dim=0)
    total = W_dec.sum() * 0
    for chunk in chunks:
        cosine = rows[chunk] @ rows[chunk].T - 2 * torch.eye(len(chunk), dtype=W_dec.dtype)
        best, at = cosine.max(1)
        weight = (norm[chunk] + norm[chunk][at]) ** alpha
        total = total + (weight * best.clamp(min=0) ** 2).sum()
    return total / len(W_dec)


def batch(seed: int = 0, *, d_sae: int = 60, d_in: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """`(acts, W_dec, x)`, a feature of which never fires."""
    generator = torch.Generator().manual_seed(seed)
    acts = torch.rand(32, d_sae, generator=generator)
    acts = acts * (acts > 0.7)
    acts[:, 5] = 0
    W_dec = torch.randn(d_sae, d_in, generator=generator) + 0.3
    return acts, W_dec / W_dec.norm(dim=1, keepdim=True), torch.randn(32, d_in, generator=generator)


def c2r(**penalty: object) -> Orthogonality:
    table = {**PUBLISHED, **penalty}
    return Orthogonality(
        OrthogonalityConfig(PairsConfig(criterion="c2r"), PenaltyConfig(**table), decoder="rows")
    )


@pytest.mark.parametrize("alpha", [1.0, 0.5, 2.0])
def test_it_is_its_definition_in_value_and_gradient(alpha, monkeypatch):
    monkeypatch.setattr(ortsae, "CHUNK", 24)
    acts, W_dec, _ = batch()
    acts.requires_grad_(), W_dec.requires_grad_()
    loss = c2r(activity_exponent=alpha)(acts, W_dec, 0)
    chunks = ortsae.partition(len(W_dec), seed=0)
    assert len(chunks) == 3
    assert float(loss) == pytest.approx(5 * definition(acts, W_dec, chunks, alpha), rel=1e-5)

    twins = [t.detach().double().requires_grad_() for t in (acts, W_dec)]
    expected = torch.autograd.grad(5 * differentiable(*twins, chunks, alpha), twins)
    expected[0][:, 5] = 0  # a power of a norm of 0 has no slope
    for got, wanted in zip(torch.autograd.grad(loss, (acts, W_dec)), expected, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-7)


def test_every_fifth_step_is_five_times_as_strong():
    acts, W_dec, _ = batch()
    c, every = c2r(every_n=5), c2r()
    found = [float(c(acts, W_dec.requires_grad_(), step)) for step in range(6)]
    assert found[1:5] == [0] * 4
    assert found[0] == pytest.approx(5 * float(every(acts, W_dec, 0)))
    assert found[5] == pytest.approx(5 * float(every(acts, W_dec, 5)))


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_sparse_activations_receive_the_same_gradient(layout):
    acts, W_dec, _ = batch()
    dense = acts.clone().requires_grad_()
    expected = torch.autograd.grad(c2r()(dense, W_dec.requires_grad_(), 0), dense)[0]
    leaf = acts.clone().requires_grad_()
    given = leaf.to_sparse_coo() if layout == "coo" else leaf.to_sparse_csr()
    found = torch.autograd.grad(c2r()(given, W_dec, 0), leaf)[0]
    found = found.to_dense() if found.layout != torch.strided else found
    torch.testing.assert_close(found[acts > 0], expected[acts > 0])


def test_without_its_gradient_only_rows_move_and_child_only_moves_the_rarer_ones():
    acts, W_dec, _ = batch()
    values, moved = [], []
    for table in ({}, {"gradient": "child-only"}):
        leaf, rows = acts.clone().requires_grad_(), W_dec.clone().requires_grad_()
        c = c2r(pair_weight="activity-detached", **table)
        loss = c(leaf, rows, 0)
        loss.backward()
        assert leaf.grad is None
        values.append(float(loss))
        moved.append(rows.grad.norm(dim=1) > 0)
    full = acts.clone().requires_grad_()
    assert values == pytest.approx([float(c2r()(full, W_dec.requires_grad_(), 0))] * 2)
    assert int(moved[1].sum()) < int(moved[0].sum())


def test_in_units_of_the_variance_it_scales_like_the_squared_error():
    acts, W_dec, x = batch()
    values = [
        float(c2r(units="variance", every_n=1)(s * acts, W_dec.requires_grad_(), 0, target=s * x))
        for s in (1.0, 10.0)
    ]
    assert values[1] == pytest.approx(100 * values[0], rel=1e-4)


def test_rows_of_any_norm_count_as_unit_rows():
    acts, W_dec, _ = batch()
    scale = torch.linspace(0.5, 3, len(W_dec))
    unit = float(c2r()(acts.requires_grad_(), W_dec.requires_grad_(), 0))
    other = (W_dec.detach() * scale[:, None]).requires_grad_()
    assert float(c2r()(acts.detach() / scale, other, 0)) == pytest.approx(unit, rel=1e-5)


def test_any_pairs_can_be_weighed_by_activity():
    acts, W_dec, _ = batch()
    config = OrthogonalityConfig(
        PairsConfig(criterion="coactivation"),
        PenaltyConfig(pair_weight="activity", **PUBLISHED, coefficient=1.0),
        decoder="rows",
    )
    c = Orthogonality(config)
    acts.requires_grad_()
    loss = c(acts, W_dec.requires_grad_(), 0)
    (gradient,) = torch.autograd.grad(loss, acts)
    i, j = c.selection.i, c.selection.j
    cosine = (W_dec[i] * W_dec[j]).sum(1)
    norm = acts.norm(dim=0)
    expected = ((norm[i] + norm[j]) * torch.relu(cosine) ** 2).sum() / len(W_dec)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("sparse", [False, True])
def test_a_training_step_sends_the_gradient_through_its_own_codes(sparse, monkeypatch):
    monkeypatch.setattr(TrainState, "sparse", sparse)
    found = {}
    for weight in ("activity", "activity-detached"):
        s = state(
            pairs={"criterion": "c2r"},
            penalty={**PUBLISHED, "pair_weight": weight},
            lr=1e-12,
            grad_clip=0.0,
        )
        x = torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(3))
        step = train_step(s, x)
        codes = step.out.codes
        live = activity(step.out.code, codes)
        torch.testing.assert_close(live, codes.dense(slice(None)).norm(dim=0))
        found[weight] = float(step.penalty), s.sae.W_enc.grad.clone()
        assert s.constraint.factor.requires_grad is False
        again = s.constraint.unweighted(s.sae.W_dec, s.firing.rate)
        assert float(again) == pytest.approx(found[weight][0] / 5, rel=1e-4)
    assert found["activity"][0] == pytest.approx(found["activity-detached"][0])
    assert not torch.allclose(found["activity"][1], found["activity-detached"][1])


def test_the_factor_survives_a_checkpoint():
    acts, W_dec, _ = batch()
    c, again = c2r(), c2r()
    c(acts, W_dec.requires_grad_(), 0)
    again.load_state_dict(c.state_dict(), d_sae=len(W_dec))
    rate = c.firing.rate
    assert float(again.unweighted(W_dec, rate)) == float(c.unweighted(W_dec, rate))


def test_what_has_no_gradient_is_refused_with_the_way_out():
    acts, W_dec, _ = batch()
    with pytest.raises(ValueError, match="activity-detached"):
        c2r()(Codes.of(acts), W_dec.requires_grad_(), 0)
    assert float(c2r(pair_weight="activity-detached")(Codes.of(acts), W_dec, 0)) > 0
    with pytest.raises(ConfigError, match="micro_batches=2"):
        Orthogonality(OrthogonalityConfig(PairsConfig(criterion="c2r"), micro_batches=2))
    with pytest.raises(ValueError, match="no activity was given"):
        PairWeights("activity").factors(None, torch.tensor([0]), torch.tensor([1]), unit=1.0)


def test_an_exponent_without_weights_is_refused():
    table = {"penalty": {"activity_exponent": 2.0}, "sae": {"d_sae": D_SAE, "k": 4.0}}
    with pytest.raises(ConfigError, match=r"--penalty\.activity-exponent 2\.0"):
        check(from_table(table))
    for name, weight in itertools.product(("c2r", "ortsae"), ("activity", "activity-detached")):
        given = {"activity_exponent": 2.0, "pair_weight": weight}
        check(from_table({**table, "pairs": {"criterion": name}, "penalty": given}))
