"""The penalty against its definition: values, gradients, and what it refuses."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.constraint.penalty import naive
from topk_ortho.constraint.penalty import OrthogonalityPenalty, tau
from topk_ortho.constraint.penalty.orthogonality import TAUS

D_SAE, D_IN, K = 30, 6, 60
SAMPLED = 50
THRESHOLD = 0.15


class Pairs(NamedTuple):
    i: Tensor
    j: Tensor
    score: Tensor


def decoder(dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Rows of every norm, one of them zero, none orthogonal to all others."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(D_SAE, D_IN, generator=generator, dtype=torch.float64) + 0.3
    W *= torch.logspace(-3, 3, D_SAE, dtype=torch.float64)[:, None]
    W[7] = 0
    return W.to(dtype)


def pairs(seed: int = 0, *, k: int = K) -> Pairs:
    generator = torch.Generator().manual_seed(seed + 1)
    every = torch.tensor(list(combinations(range(D_SAE), 2)))
    zero_row = torch.tensor([[3, 7]])
    picked = torch.cat([zero_row, every[torch.randperm(len(every), generator=generator)]])[:k]
    score = torch.rand(len(picked), generator=generator) + 0.05
    return Pairs(picked[:, 0], picked[:, 1], score)


def rates() -> Tensor:
    """Many features share a rate."""
    return torch.randint(0, 4, (D_SAE,), generator=torch.Generator().manual_seed(5)).float() / 10


def ema() -> Tensor:
    return torch.rand(K, generator=torch.Generator().manual_seed(6), dtype=torch.float64) + 0.01


def as_list(chosen: Pairs) -> list[tuple[int, int]]:
    return list(zip(chosen.i.tolist(), chosen.j.tolist(), strict=True))


@pytest.fixture(autouse=True)
def _small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tau, "SAMPLED_PAIRS", SAMPLED)


def sample() -> list[tuple[int, int]]:
    i, j = tau.sample_pairs(D_SAE, seed=0, device=torch.device("cpu"))
    return list(zip(i.tolist(), j.tolist(), strict=True))


@pytest.fixture(params=TAUS)
def policy(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["positive", "both"])
def sign(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["d-sae", "k"])
def n(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["child-only", "symmetric"])
def gradient(request: pytest.FixtureRequest) -> str:
    return request.param


def price(penalty: OrthogonalityPenalty, W: Tensor, chosen: Pairs) -> Tensor:
    return penalty(W, chosen, firing_rate=rates(), ema=ema())


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-6), (torch.float32, 1e-4), (torch.bfloat16, 1e-4)],
    ids=["float64", "float32", "bfloat16"],
)
def test_value_is_the_definition(
    policy: str, sign: str, n: str, gradient: str, dtype: torch.dtype, tolerance: float
) -> None:
    W, chosen = decoder(dtype), pairs()
    penalty = OrthogonalityPenalty(
        policy, threshold=THRESHOLD, sign=sign, gradient=gradient, normalize_by=n
    )
    got = price(penalty, W, chosen)
    expected = naive.penalty(
        W.double().numpy(),
        as_list(chosen),
        tau=policy,
        threshold=THRESHOLD,
        sign=sign,
        n=n,
        score=chosen.score.double().numpy(),
        ema=ema().numpy(),
        sample=sample(),
    )
    assert expected > 1e-3
    assert float(got) == pytest.approx(expected, rel=tolerance)
    # never in the decoder's own half precision
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def anchored(gradient: str, i: int, j: int) -> int | None:
    """The more frequent feature stands still; of equal ones the smaller index (i < j)."""
    if gradient == "symmetric":
        return None
    rate = rates()
    return j if rate[i] < rate[j] else i


def test_gradient_is_that_of_the_definition(policy: str, sign: str, n: str, gradient: str) -> None:
    W, chosen = decoder(), pairs()
    W[7] = torch.randn(D_IN, generator=torch.Generator().manual_seed(3))
    ours, theirs = W.clone().requires_grad_(), W.clone().requires_grad_()
    penalty = OrthogonalityPenalty(
        policy, threshold=THRESHOLD, sign=sign, gradient=gradient, normalize_by=n
    )
    price(penalty, ours, chosen).backward()
    sampled = [naive.cosine(W.numpy(), i, j) for i, j in sample()]
    score, weights = chosen.score.double().numpy(), ema().numpy()
    naive.differentiable(
        theirs,
        as_list(chosen),
        lambda c: naive.taus_and_weights(policy, THRESHOLD, c, score, weights, sampled),
        sign=sign,
        anchored=lambda i, j: anchored(gradient, i, j),
        divide_by=D_SAE if n == "d-sae" else K,
    ).backward()
    assert int((theirs.grad != 0).sum()) > D_IN
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-12)


def test_the_parent_of_a_pair_stands_still() -> None:
    W = torch.tensor([[1.0, 0.0], [1.0, 0.5], [1.0, 1.0]], requires_grad=True)
    chosen = Pairs(torch.tensor([0]), torch.tensor([2]), torch.ones(1))
    penalty = OrthogonalityPenalty(0.1)
    for rate, child in (([0.5, 0, 0.1], 2), ([0.1, 0, 0.5], 0), ([0.3, 0, 0.3], 2)):
        W.grad = None
        penalty(W, chosen, firing_rate=torch.tensor(rate)).backward()
        assert W.grad.norm(dim=1).nonzero().flatten().tolist() == [child]


def test_symmetric_gradient_passes_gradcheck() -> None:
    chosen = pairs(k=12)
    penalty = OrthogonalityPenalty(0.05, sign="both", gradient="symmetric")
    W = (decoder() / decoder().norm(dim=1, keepdim=True).clamp_min(1e-9)).clone()
    W[7] = torch.ones(D_IN)
    assert torch.autograd.gradcheck(
        lambda w: penalty(w, chosen), W.requires_grad_(), eps=1e-7, atol=1e-6
    )


def test_a_negative_cosine_is_no_overlap_unless_both_signs_count() -> None:
    W = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    chosen = Pairs(torch.tensor([0]), torch.tensor([1]), torch.ones(1))
    assert OrthogonalityPenalty(0.1, gradient="symmetric")(W, chosen) == 0
    both = OrthogonalityPenalty(0.1, gradient="symmetric", sign="both", normalize_by="k")(W, chosen)
    assert float(both) == pytest.approx(0.81)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("fixed", (0.8 - 0.15) ** 2),
        ("mean-std", 0.0),  # one pair is its own mean
        ("strength", 0.8**2),
        ("strength-threshold", 0.8**2),  # it is the strongest
        ("stability", (0.8 - 0.15) ** 2),
    ],
)
def test_one_pair(policy: str, expected: float) -> None:
    W = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)
    chosen = Pairs(torch.tensor([0]), torch.tensor([1]), torch.tensor([7.0]))
    penalty = OrthogonalityPenalty(
        policy, threshold=THRESHOLD, gradient="symmetric", normalize_by="k"
    )
    got = penalty(W, chosen, ema=torch.tensor([0.2]))
    assert float(got) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_no_pair_costs_nothing(policy: str, n: str, dtype: torch.dtype) -> None:
    W = torch.full((4, 1000), 60_000.0, dtype=dtype, requires_grad=True)  # its sum leaves float16
    none = torch.empty(0, dtype=torch.int64)
    got = OrthogonalityPenalty(policy, normalize_by=n)(W, Pairs(none, none, torch.empty(0)))
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    got.backward()
    assert got == 0
    assert torch.equal(W.grad, torch.zeros_like(W))


def test_the_threshold_is_where_the_price_begins() -> None:
    W = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    chosen = Pairs(torch.tensor([0]), torch.tensor([1]), torch.ones(1))
    price_at = [
        float(OrthogonalityPenalty(t, gradient="symmetric", normalize_by="k")(W, chosen))
        for t in (0.0, 0.5, 0.59, 0.61, 1.0)
    ]
    assert price_at == pytest.approx([0.36, 0.01, 0.0001, 0.0, 0.0], abs=1e-6)


def test_a_second_backward_pass_gives_the_same_gradient(gradient: str) -> None:
    """The first one hands the gradient out, and autograd may change it."""
    W = decoder(torch.float32).requires_grad_()
    loss = price(OrthogonalityPenalty(0.05, gradient=gradient), W, pairs())
    (3 * loss).backward(retain_graph=True)
    first, W.grad = W.grad, None
    assert bool(first.any())
    loss.backward()
    torch.testing.assert_close(3 * W.grad, first)


def test_a_coefficient_is_a_factor_before_cost_and_gradient(gradient: str) -> None:
    W = decoder(torch.float32).requires_grad_()
    penalty = OrthogonalityPenalty(0.05, gradient=gradient)
    (plain,) = torch.autograd.grad(price(penalty, W, pairs()), W)
    loss = penalty(W, pairs(), firing_rate=rates(), coefficient=0.3)
    torch.testing.assert_close(loss, 0.3 * price(penalty, W, pairs()))
    torch.testing.assert_close(torch.autograd.grad(loss, W)[0], 0.3 * plain)


def test_more_pairs_than_there_are_is_refused() -> None:
    i = torch.zeros(2, dtype=torch.int64)
    again = Pairs(i, i + 1, torch.ones(2))
    with pytest.raises(ValueError, match="2 pairs were given, but 2 features have 1"):
        OrthogonalityPenalty(0.1, gradient="symmetric")(torch.eye(2), again)


def test_autograd_keeps_no_block_of_gathered_rows() -> None:
    d_sae, d_in = 200, 64
    W = torch.randn(d_sae, d_in, generator=torch.Generator().manual_seed(0)).requires_grad_()
    i, j = torch.triu_indices(d_sae, d_sae, 1)
    k = len(i)
    chosen = Pairs(i, j, torch.ones(k))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        OrthogonalityPenalty(0.1, gradient="symmetric")(W, chosen).backward()
    assert 2 * k * 8 < sum(kept.values()) < k * d_in * 4 // 4  # the indices, and not the rows


def test_mean_std_all_looks_at_one_fixed_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tau, "SAMPLED_PAIRS", 50)
    W, chosen = decoder(), pairs()
    penalty = OrthogonalityPenalty("mean-std-all", gradient="symmetric")
    first = penalty(W, chosen)
    torch.manual_seed(123)
    torch.rand(5)
    assert torch.equal(first, penalty(W, chosen))
    assert torch.equal(first, OrthogonalityPenalty("mean-std-all", gradient="symmetric")(W, chosen))
    other = OrthogonalityPenalty("mean-std-all", gradient="symmetric", seed=1)(W, chosen)
    assert not torch.equal(first, other)


def test_mean_std_all_follows_the_decoder_it_is_given() -> None:
    """The sample is of the pairs of this decoder, whatever was priced before."""
    penalty = OrthogonalityPenalty("mean-std-all", gradient="symmetric")
    chosen = Pairs(torch.tensor([0]), torch.tensor([1]), torch.ones(1))
    penalty(decoder(), chosen)
    small = decoder()[8:12]
    fresh = OrthogonalityPenalty("mean-std-all", gradient="symmetric")
    assert torch.equal(penalty(small, chosen), fresh(small, chosen))


def test_the_sample_is_of_different_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tau, "SAMPLED_PAIRS", 100_000)
    d_sae = 500
    i, j = tau.sample_pairs(d_sae, seed=3, device=torch.device("cpu"))
    assert len(i) == 100_000
    assert not bool((i == j).any())
    for column in (i, j):
        hits = torch.bincount(column, minlength=d_sae)
        assert 0.5 * hits.float().mean() < hits.min()
        assert hits.max() < 1.5 * hits.float().mean()


def test_few_pairs_are_all_in_the_sample() -> None:
    i, j = tau.sample_pairs(5, seed=3, device=torch.device("cpu"))
    pairs_of_five = [(a, b) for a in range(5) for b in range(a + 1, 5)]
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == pairs_of_five


def test_mean_std_looks_at_the_overlap_that_is_priced() -> None:
    """With both signs the mean is that of the absolute values: cosines .6 and -.6 give τ .6."""
    W = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-0.6, 0.8]], dtype=torch.float64)
    chosen = Pairs(torch.tensor([0, 0]), torch.tensor([1, 2]), torch.ones(2))
    both = OrthogonalityPenalty("mean-std", sign="both", gradient="symmetric", normalize_by="k")(
        W, chosen
    )
    one = OrthogonalityPenalty("mean-std", gradient="symmetric", normalize_by="k")(W, chosen)
    assert float(both) == pytest.approx(0, abs=1e-12)
    assert float(one) == pytest.approx(0, abs=1e-12)  # mean 0, std .6


def test_thresholds_and_weights_carry_no_gradient(policy: str) -> None:
    """All detached: doubling a pair's score changes a weight, never adds a path."""
    W, chosen = decoder().requires_grad_(), pairs()
    score = chosen.score.clone().requires_grad_()
    history = ema().requires_grad_()
    penalty = OrthogonalityPenalty(policy, gradient="symmetric")
    penalty(W, chosen._replace(score=score), ema=history).backward()
    assert W.grad is not None
    assert score.grad is None
    assert history.grad is None


def test_weights_are_shares_of_the_mean(n: str) -> None:
    """Scaling all scores or averages changes nothing; a pair twice as strong weighs twice."""
    W, chosen = decoder(), pairs()
    for policy in ("strength", "strength-threshold", "stability"):
        penalty = OrthogonalityPenalty(policy, gradient="symmetric", normalize_by=n)
        a = penalty(W, chosen, ema=ema())
        b = penalty(W, chosen._replace(score=chosen.score * 64), ema=ema() * 64)
        assert float(a) == pytest.approx(float(b), rel=1e-6)
    W = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.75**0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0.6, 0.8]])
    two = Pairs(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([3.0, 1.0]))
    got = OrthogonalityPenalty("strength", gradient="symmetric", normalize_by="k")(W, two)
    assert float(got) == pytest.approx((1.5 * 0.25 + 0.5 * 0.36) / 2)


def test_autocast_changes_nothing(gradient: str) -> None:
    chosen = pairs()
    results = []
    for enabled in (False, True):
        W = decoder(torch.float32).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = price(OrthogonalityPenalty("mean-std-all", gradient=gradient), W, chosen)
        loss.backward()
        results.append((loss.detach(), W.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.fault("a decoder row of norm zero")
@pytest.mark.parametrize("policy_of_zero", ["fixed", "mean-std", "strength"])
def test_a_zero_row_gets_a_finite_gradient(policy_of_zero: str) -> None:
    """`mean-std` of negative cosines is a threshold below 0, above which the zero row lies."""
    W = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [0.0, 0.0], [-1.0, -0.1]], requires_grad=True)
    chosen = Pairs(torch.tensor([0, 0, 0]), torch.tensor([1, 2, 3]), torch.ones(3))
    for only in (chosen, Pairs(*(column[:2] for column in chosen))):
        W.grad = None
        OrthogonalityPenalty(policy_of_zero, gradient="symmetric")(W, only).backward()
        assert W.grad[2].abs().max() == 0
        assert W.grad.abs().max() < 10


def test_pairs_that_share_a_row_add_up() -> None:
    W, chosen = decoder(), pairs()
    penalty = OrthogonalityPenalty(0.1, gradient="symmetric")
    apart = sum(
        float(penalty(W, Pairs(*(column[p : p + 1] for column in chosen)))) for p in range(K)
    )
    assert float(penalty(W, chosen)) == pytest.approx(apart)


def test_child_only_needs_firing_rates() -> None:
    with pytest.raises(ValueError, match="firing_rate"):
        OrthogonalityPenalty(0.1)(decoder(), pairs())


def test_stability_needs_the_history() -> None:
    with pytest.raises(ValueError, match="ema"):
        OrthogonalityPenalty("stability", gradient="symmetric")(decoder(), pairs())


@pytest.mark.parametrize(
    "options",
    [
        {"tau": "strong"},
        {"sign": "negative"},
        {"gradient": "parent_only"},
        {"normalize_by": "batch"},
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"but one of .*, .* was expected"):
        OrthogonalityPenalty(**options)


def test_hyphens_and_underscores_are_the_same() -> None:
    W, chosen = decoder(), pairs()
    a = OrthogonalityPenalty("strength_threshold", gradient="child_only", normalize_by="d_sae")
    b = OrthogonalityPenalty("strength-threshold", gradient="child-only", normalize_by="d-sae")
    assert torch.equal(price(a, W, chosen), price(b, W, chosen))


@pytest.mark.fault("a pair outside of the decoder")
@pytest.mark.parametrize("bad", [-1, D_SAE, 10**9])
@pytest.mark.parametrize("column", ["i", "j"])
def test_an_index_outside_the_decoder_is_refused(bad: int, column: str) -> None:
    chosen = pairs()
    broken = getattr(chosen, column).clone()
    broken[4] = bad
    with pytest.raises(ValueError, match=f"feature {bad} was given.* {D_SAE} rows"):
        price(OrthogonalityPenalty(0.1), decoder(), chosen._replace(**{column: broken}))


@pytest.mark.parametrize(
    ("policy_of", "name"),
    [
        ("fixed", "i"),
        ("fixed", "j"),
        ("fixed", "firing_rate"),
        ("strength", "score"),
        ("strength-threshold", "score"),
        ("stability", "ema"),
    ],
)
def test_lengths_that_do_not_match_are_refused(policy_of: str, name: str) -> None:
    chosen, given = pairs(), {"ema": ema(), "firing_rate": rates()}
    if name in given:
        given[name] = given[name][:-1]
    else:
        chosen = chosen._replace(**{name: getattr(chosen, name)[:-1]})
    with pytest.raises(ValueError, match=rf"\b{name} .*given, but .* expected"):
        OrthogonalityPenalty(policy_of)(decoder(), chosen, **given)


def test_values_agree_with_numpy_at_random() -> None:
    """Another seed each time a new decoder: no value above rests on one lucky draw."""
    for seed in range(5):
        W, chosen = decoder(seed=seed + 10), pairs(seed + 10)
        got = price(OrthogonalityPenalty(0.2, sign="both"), W, chosen)
        c = [abs(naive.cosine(W.numpy(), i, j)) for i, j in as_list(chosen)]
        assert float(got) == pytest.approx(np.square(np.maximum(np.array(c) - 0.2, 0)).sum() / 30)
