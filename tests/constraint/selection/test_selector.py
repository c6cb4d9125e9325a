"""Every path of the selector against the definition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.constraint.selection import naive
from topk_ortho import PairSelector
from topk_ortho.constraint.criteria import CRITERIA as RECORDS
from topk_ortho.constraint.criteria import AllPairs, CoactiveSum, Drawn, OnePerFeature
from topk_ortho.constraint.selection import coactive, paths, topk


def of_form(form: type) -> tuple[str, ...]:
    return tuple(c.name for c in RECORDS if isinstance(c.form, form))


ALL = RECORDS.names()
SUMS, TILED, PRODUCT = of_form(CoactiveSum), of_form(AllPairs), of_form(OnePerFeature)
CRITERIA = tuple(name for name in ALL if name not in of_form(Drawn))  # test_drawn.py
SMALLEST = 2**20
Force = Callable[[str], None]


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch) -> Force:
    """Sends criteria over co-active pairs down the `sparse` or the `dense` path."""

    def to(path: str) -> None:
        monkeypatch.setattr(paths, "is_dense", lambda codes: path == "dense")

    return to


def codes(seed: int, *, batch: int = 64, d_sae: int = 40, density: float = 0.15) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(batch, d_sae, generator=generator) < density
    return on * torch.rand(batch, d_sae, generator=generator)


def selector(criterion: str, **options: float) -> PairSelector:
    """A selector; `given` is given two pairs."""
    listed = [3, 17, 5, 9] if RECORDS[criterion].listed else ()
    return PairSelector(criterion, given=listed, **options)


def evidence(acts: torch.Tensor, seed: int, d_in: int = 12) -> dict[str, torch.Tensor]:
    """Everything that any criterion asks for."""
    generator = torch.Generator().manual_seed(seed + 1000)
    batch, d_sae = acts.shape

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "W_dec": normal(d_sae, d_in),
        "W_enc": normal(d_in, d_sae),
        "x": normal(batch, d_in),
        "pre": normal(batch, d_sae),
        "gradient": normal(batch, d_sae),
        "threshold": normal(d_sae).abs(),
        "energy": normal(d_sae) ** 2,
    }


def decoder(seed: int, d_sae: int = 40, d_in: int = 12) -> torch.Tensor:
    return torch.randn(d_sae, d_in, generator=torch.Generator().manual_seed(seed + 1000))


def check(criterion: str, acts: torch.Tensor, seed: int, **options: object) -> None:
    given = evidence(acts, seed)
    got = PairSelector(criterion, **options)(acts, **given)
    arrays = {name: value.numpy() for name, value in given.items()} | {"acts": acts.numpy()}
    i, j, score = naive.select(naive.scores(criterion, arrays, min_support=8), got.requested)
    assert got.i.tolist() == i.tolist()
    assert got.j.tolist() == j.tolist()
    assert got.score.dtype == torch.float32
    # matrix products may add up in another order, which moves a float64 by its last bits
    np.testing.assert_allclose(got.score.numpy(), score, rtol=2e-7)


@pytest.mark.parametrize("criterion", CRITERIA)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.sampled_from([0.001, 0.05, 0.5, 1.0]))
def test_selection_is_the_definition(criterion: str, seed: int, k: float) -> None:
    check(criterion, codes(seed), seed, fraction=k)


@pytest.mark.parametrize("path", ["native", "sparse", "dense"])
@pytest.mark.parametrize("criterion", SUMS)
def test_all_paths_of_sums_are_the_definition(criterion: str, path: str, force: Force) -> None:
    force(path)
    backend = "auto" if path == "native" else "torch"
    for seed in range(3):
        acts = codes(seed, density=0.4)
        check(criterion, acts, seed, fraction=0.3, memory_budget=SMALLEST, backend=backend)


@pytest.mark.parametrize("criterion", SUMS)
def test_rust_and_torch_agree_bit_for_bit_on_ties(criterion: str, force: Force) -> None:
    force("sparse")
    acts = (codes(5, density=0.5) * 3).ceil()
    given = evidence(acts, 5)
    given["W_dec"][7] = given["W_dec"][3]
    given["gradient"] = given["gradient"].sign()
    rust = PairSelector(criterion, per_feature=2)(acts, **given)
    torch_ = PairSelector(criterion, per_feature=2, backend="torch")(acts, **given)
    assert (rust.path, torch_.path) == ("native", "coactive")
    assert (rust.positive, rust.unsupported) == (torch_.positive, torch_.unsupported)
    assert torch.equal(rust.i, torch_.i)
    assert torch.equal(rust.j, torch_.j)
    assert torch.equal(rust.score, torch_.score)


def test_each_path_is_the_one_dispatched() -> None:
    sparse, full = codes(1, d_sae=300, density=0.01), codes(1, density=0.9)
    given = evidence(sparse, 1)
    expected = dict.fromkeys(SUMS, "native") | dict.fromkeys(TILED, "tiles")
    expected |= dict.fromkeys(PRODUCT, "product") | {"random": "uniform"}
    expected |= {"rate-matched-random": "matched", "ortsae": "chunks", "c2r": "chunks"}
    expected |= {"given": "list"}
    for criterion in ALL:
        assert selector(criterion)(sparse, **given).path == expected[criterion]
    for criterion in SUMS:
        assert PairSelector(criterion, backend="torch")(sparse, **given).path == "coactive"
        got = PairSelector(criterion)(full, **evidence(full, 1))
        assert got.path == "dense tiles"


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("layout", ["csr", "coo"])
def test_sparse_layouts_give_the_dense_selection(criterion: str, layout: str) -> None:
    acts = codes(3)
    given = evidence(acts, 3)
    sparse = acts.to_sparse_csr() if layout == "csr" else acts.to_sparse_coo()
    a = PairSelector(criterion, per_feature=1)(acts, **given)
    b = PairSelector(criterion, per_feature=1)(sparse, **given)
    assert torch.equal(a.i, b.i)
    assert torch.equal(a.j, b.j)
    assert torch.equal(a.score, b.score)


@pytest.mark.parametrize("criterion", ALL)
def test_a_criterion_looks_at_what_it_says_it_needs(criterion: str) -> None:
    acts = codes(3)
    given = evidence(acts, 3)
    select = selector(criterion, per_feature=1)
    needed = {name: given[name] for name in select.required_inputs}
    assert torch.equal(select(acts, **needed).i, select(acts, **given).i)
    for name in select.required_inputs:
        with pytest.raises(ValueError, match=f"no {name} was given"):
            select(acts, **{k: v for k, v in needed.items() if k != name})


@pytest.mark.parametrize("criterion", CRITERIA)
def test_other_devices_collector_keeps_the_same(
    criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA has no Rust behind it: the torch collector has to agree, ties included."""
    acts = (codes(5) * 4).ceil()
    given = evidence(acts, 5)
    given["W_dec"][7] = given["W_dec"][3]
    rust = PairSelector(criterion, per_feature=2)(acts, **given)
    monkeypatch.setattr(paths, "collector", topk.TorchCollector)
    torch_ = PairSelector(criterion, per_feature=2)(acts, **given)
    assert torch.equal(rust.i, torch_.i)
    assert torch.equal(rust.j, torch_.j)
    assert torch.equal(rust.score, torch_.score)


def test_blocks_go_through_the_rust_selector(monkeypatch: pytest.MonkeyPatch, force: Force) -> None:
    force("sparse")
    pushed = []
    real = topk.RustCollector.push

    def push(self, i, j, score):
        pushed.append(len(i))
        real(self, i, j, score)

    monkeypatch.setattr(topk.RustCollector, "push", push)
    acts = codes(1, batch=256, d_sae=300)
    selected = PairSelector("coactivation", per_feature=1, memory_budget=SMALLEST, backend="torch")(
        acts
    )
    assert len(pushed) > 3
    assert sum(pushed) >= len(selected) == 300


@pytest.mark.parametrize("most_products", [1, 7, 100, 10**6])
@pytest.mark.parametrize("dense", [True, False])
def test_blocking_never_changes_a_bit(
    most_products: int, dense: bool, monkeypatch: pytest.MonkeyPatch, force: Force
) -> None:
    force("sparse")
    acts = codes(9)
    acts[:, 4] = torch.rand(64) + 0.1  # a hub that fires on every row
    whole = PairSelector("coactivation", fraction=1.0)(acts)
    monkeypatch.setattr(coactive, "BYTES_PER_PRODUCT", SMALLEST // most_products)
    monkeypatch.setattr(coactive, "CELLS_PER_PRODUCT", 10**6 if dense else 0)
    cut = PairSelector("coactivation", fraction=1.0, memory_budget=SMALLEST, backend="torch")(acts)
    assert torch.equal(whole.i, cut.i)
    assert torch.equal(whole.j, cut.j)
    assert torch.equal(whole.score, cut.score)


def test_scores_a_billionth_apart_are_ties_and_ties_go_to_the_smaller_pair() -> None:
    acts = torch.zeros(4, 6)
    acts[0, [4, 5]] = 1.0
    acts[1, [0, 1]] = 1.0
    acts[2, [0, 1]] = 3e-5  # 1 + 9e-10 in float64, 1 in float32
    acts[3, [2, 3]] = 1.0
    got = PairSelector("coactivation", fraction=2 / 15)(acts)
    assert list(zip(got.i.tolist(), got.j.tolist(), strict=True)) == [(0, 1), (2, 3)]
    assert got.score.tolist() == [1.0, 1.0]


def test_all_ties_take_the_first_pairs_in_order() -> None:
    got = PairSelector("coactivation", per_feature=1)(torch.ones(3, 30))
    i, j = np.triu_indices(30, 1)
    assert got.i.tolist() == i[:30].tolist()
    assert got.j.tolist() == j[:30].tolist()


def test_k_never_fills_up_with_zeros() -> None:
    acts = torch.zeros(5, 50)
    acts[0, [3, 9, 11]] = 2.0
    got = PairSelector("coactivation", fraction=0.5)(acts)
    assert (len(got), got.positive, got.requested) == (3, 3, 612)
    assert got.saturation == 1.0


@pytest.mark.fault("batches without a pair of active features")
@pytest.mark.parametrize("acts", [torch.zeros(5, 8), torch.zeros(0, 8), torch.eye(8)])
def test_without_a_coactive_pair_the_selection_is_empty(acts: torch.Tensor) -> None:
    assert len(PairSelector("coactivation", per_feature=1)(acts)) == 0


def test_fraction_of_active_counts_positive_pairs() -> None:
    acts = codes(2)
    positive = PairSelector("coactivation", fraction=1.0)(acts).positive
    got = PairSelector("coactivation", fraction=0.1, fraction_of="active")(acts)
    assert got.requested == len(got) == round(0.1 * positive)


def test_indices_beyond_32_bits_of_product() -> None:
    """At 65,536 features `i * d_sae + j` leaves 32 bits."""
    d_sae = 65_536
    row = torch.tensor([0, 0, 1, 1])
    col = torch.tensor([0, 1, d_sae - 2, d_sae - 1])
    acts = torch.sparse_coo_tensor(
        torch.stack([row, col]), torch.tensor([1.0, 1.0, 2.0, 2.0]), (2, d_sae)
    )
    got = PairSelector("coactivation", per_feature=1)(acts)
    assert got.i.tolist() == [d_sae - 2, 0]
    assert got.j.tolist() == [d_sae - 1, 1]


def test_bfloat16_codes_are_scored_on_their_own_values() -> None:
    acts = codes(6).bfloat16()
    a = PairSelector("coactivation", per_feature=2)(acts)
    b = PairSelector("coactivation", per_feature=2)(acts.float())
    assert torch.equal(a.score, b.score)
    assert torch.equal(a.i, b.i)


def test_support_floor_counts_what_it_removes() -> None:
    acts = codes(4, density=0.1)
    low = PairSelector("correlation", fraction=1.0, min_support=1)(acts)
    high = PairSelector("correlation", fraction=1.0, min_support=9)(acts)
    count = (acts > 0).sum(0)
    assert low.unsupported == 0 < high.unsupported
    assert int(torch.minimum(count[high.i], count[high.j]).min()) >= 9


def test_a_constant_feature_correlates_with_nothing() -> None:
    acts = codes(8)
    acts[:, 5] = 0.3
    got = PairSelector("correlation", fraction=1.0)(acts)
    assert 5 not in got.i.tolist() + got.j.tolist()


@pytest.mark.fault("a decoder row of norm zero")
def test_a_zero_decoder_row_has_no_cosine() -> None:
    W_dec = decoder(1)
    W_dec[11] = 0
    got = PairSelector("decoder-cosine", fraction=1.0)(codes(1), W_dec=W_dec)
    assert 11 not in got.i.tolist() + got.j.tolist()


@pytest.mark.parametrize("criterion", list(TILED))
def test_many_tiles_give_the_definition(criterion: str) -> None:
    acts = codes(2, batch=16, d_sae=700, density=0.01)
    check(criterion, acts, 2, per_feature=2.5, memory_budget=SMALLEST)


@pytest.mark.parametrize("d_sae", [2, 3, 50])
def test_random_pairs_are_distinct_valid_and_change_with_the_step(d_sae: int) -> None:
    acts = torch.zeros(1, d_sae)
    select = PairSelector("random", fraction=0.4, seed=1)
    got = select(acts, step=3)
    assert (got.i < got.j).all()
    assert got.j.max() < d_sae
    assert len(set(zip(got.i.tolist(), got.j.tolist(), strict=True))) == got.requested
    assert torch.equal(got.i, select(acts, step=3).i)
    if d_sae == 50:
        assert not torch.equal(got.i, select(acts, step=4).i)


def test_random_pairs_are_uniform() -> None:
    hits = torch.zeros(12, 12)
    for step in range(600):
        got = PairSelector("random", fraction=0.2)(torch.zeros(1, 12), step=step)
        hits[got.i, got.j] += 1
    seen = hits[torch.triu(torch.ones(12, 12), 1) > 0]
    assert seen.min() > 0.7 * seen.mean()
    assert seen.max() < 1.4 * seen.mean()


def test_no_gradient_reaches_the_codes() -> None:
    acts = codes(1).requires_grad_()
    got = PairSelector("coactivation", per_feature=1)(acts)
    assert not got.score.requires_grad


@pytest.mark.fault("codes that are not finite")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_bad_activations_are_refused_by_place(bad: float) -> None:
    acts = codes(1)
    acts[5, 7] = bad
    with pytest.raises(ValueError, match=r"acts\[5, 7\]"):
        PairSelector("coactivation", per_feature=1)(acts)


@pytest.mark.fault("a score that is not finite")
def test_a_score_that_is_not_finite_names_the_pair() -> None:
    acts = torch.zeros(1, 4)
    acts[0, [1, 3]] = 1e30
    with pytest.raises(ValueError, match="pair i = 1, j = 3"):
        PairSelector("coactivation", per_feature=1)(acts)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"fraction": 0.0}, "fraction=0.0"),
        ({"fraction": 2.0}, "fraction=2.0"),
        ({"fraction": 0.1, "per_feature": 1}, "both given"),
        ({"per_feature": 0}, "per_feature=0"),
        ({"fraction_of": "some"}, "fraction_of='some'"),
    ],
)
def test_bad_options_are_refused(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        PairSelector("coactivation", **options)


def test_an_unknown_criterion_is_answered_with_all_of_them() -> None:
    with pytest.raises(ValueError, match="coactive-cosine"):
        PairSelector("cosine")


def test_a_transposed_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match="transpose"):
        PairSelector("decoder-cosine")(codes(1), W_dec=decoder(1).T)
