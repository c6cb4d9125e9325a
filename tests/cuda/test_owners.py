"""The selection's kernels in Triton's interpreter against Rust: pairs, scores, counts, all bits."""

from __future__ import annotations

import pytest
import torch

from tests.constraint.selection.test_in_slots import same
from tests.constraint.selection.test_selector import evidence
from tests.cuda.interpreted import interpreter, is_clean
from tests.cuda.pretend import Pretend, pretend, waits
from topk_ortho import PairSelector
from topk_ortho.constraint.criteria import CRITERIA, CoactiveSum
from topk_ortho.constraint.criteria.inputs import SelectorInputs
from topk_ortho.constraint.criteria.quotient import Quotient
from topk_ortho.constraint.selection import PairSelection
from topk_ortho.constraint.selection.owners import OwnerSums, Size
from topk_ortho.constraint.selection.selection import LOST, WHOLE, SlotSelection
from topk_ortho.sparse.codes import Codes

D_SAE = 24


def acts(seed: int, *, whole: bool = False, batch: int = 8) -> torch.Tensor:
    """Rows with an empty one, a feature that always fires, one that never does."""
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(batch, D_SAE, generator=generator) < 0.3
    on[:, 5], on[:, 6], on[1] = True, False, False
    values = torch.rand(batch, D_SAE, generator=generator)
    return on * ((values * 3).ceil() if whole else values)


def small(codes: Codes, k: int, *, hubs: int = 3, chunk: int = 256) -> OwnerSums:
    size = Size(codes.nnz, D_SAE, k, programs=2, hubs=hubs, entries=8, partners=16, chunk=chunk)
    return OwnerSums(size, torch.device("cpu"))


def selected(
    owners: OwnerSums, codes: Codes, criterion: str, k: int, given: dict[str, torch.Tensor]
) -> SlotSelection:
    form = CRITERIA[criterion].form
    assert isinstance(form, CoactiveSum)
    e = SelectorInputs(codes, 2**28, **given)
    score = form.score(e) if form.score is not None else None
    assert score is None or isinstance(score, Quotient)
    support = 2 if form.min_support else 0
    slots, counts = owners.best(codes, form.value(e), k, quotient=score, support=support)

    def lost() -> PairSelection:
        raise AssertionError("pairs were lost")

    return SlotSelection(slots, counts, k, "owners", again=lost)


def check(criterion: str, batch: torch.Tensor, k: int, owners: OwnerSums | None = None) -> None:
    given = evidence(batch, 0)
    select = PairSelector(criterion, per_feature=k / D_SAE, min_support=2)
    given = {name: given[name] for name in select.required_inputs}
    codes = Codes.of(batch)
    owners = small(codes, k) if owners is None else owners
    with interpreter():
        same(selected(owners, codes, criterion, k, given), select(batch, **given))
    assert is_clean(owners._scratch, owners._hist)


@pytest.mark.parametrize(
    "criterion",
    ["coactivation", "row-coactivation", "correlation",
     *(pytest.param(name, marks=pytest.mark.slow)
       for name in ("coactivation-cosine", "conditional", "gradient", "gradient-batchwise"))],
)  # fmt: skip
def test_every_criterion_has_the_bits_of_rust(criterion: str) -> None:
    check(criterion, acts(0), 12)


@pytest.mark.parametrize("hubs", [pytest.param(1, marks=pytest.mark.slow), D_SAE])
def test_ties_at_the_last_pair_go_to_the_smaller_one(hubs: int) -> None:
    batch = acts(1, whole=True)
    check("coactivation", batch, 20, small(Codes.of(batch), 20, hubs=hubs))


def test_fewer_pairs_than_were_asked_for() -> None:
    check("coactivation", acts(2), 270)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_any_size_has_the_bits_of_rust(seed: int) -> None:
    batch = acts(seed, whole=seed % 3 == 0, batch=5 + 7 * seed)
    for criterion in ("coactivation", "correlation"):
        for k in (1, 17, 90):
            hubs = (1, 5, D_SAE)[seed % 3]
            check(criterion, batch, k, small(Codes.of(batch), k, hubs=hubs, chunk=128))


@pytest.mark.parametrize("factor", [0.9, 1.1, pytest.param(4.0, marks=pytest.mark.slow)])
def test_a_threshold_of_another_batch_is_raised_or_lowered(factor: float) -> None:
    """Too low, it leaves more pairs than slots; too high, fewer than k."""
    codes = Codes.of(acts(3))
    owners = small(codes, 12)
    expected = PairSelector("coactivation", per_feature=0.5)(acts(3))
    bits = (expected.score[-1] * factor).reshape(1).view(torch.int32)
    with interpreter() as launches:
        owners._warm.copy_(bits)
        same(selected(owners, codes, "coactivation", 12, {}), expected)
    assert launches["judge"] == launches["accumulate"] == 4
    assert owners._warm.view(torch.float32).item() <= expected.score[-1].item()


def test_slots_that_overflow_are_refilled_from_a_higher_threshold() -> None:
    codes = Codes.of(acts(4))
    owners = small(codes, 5)
    object.__setattr__(owners.size, "chunk", 128)
    expected = PairSelector("coactivation", per_feature=5 / D_SAE)(acts(4))
    with interpreter():
        owners._warm.copy_((expected.score[-1] * 0.01).reshape(1).view(torch.int32))
        got = selected(owners, codes, "coactivation", 5, {})
        same(got, expected)
    assert got.counts[2] == WHOLE


def test_ties_beyond_the_slots_are_never_silent() -> None:
    batch = torch.ones(2, D_SAE)
    codes = Codes.of(batch)
    owners = small(codes, 3, hubs=1, chunk=128)
    owners._out = [column[:8] for column in owners._out]
    with interpreter(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Size, "slots", property(lambda self: 8))
        slots, counts = owners.best(codes, codes.value, 3, quotient=None, support=0)
    assert counts.tolist()[2] == LOST and not slots.score.any()
    assert is_clean(owners._scratch, owners._hist)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few programs, and codes that count as sparse."""
    monkeypatch.setattr("topk_ortho.constraint.selection.owners.PROGRAMS", 2)
    monkeypatch.setattr("topk_ortho.constraint.selection.owners.HUBS", 3)
    monkeypatch.setattr("topk_ortho.constraint.selection.paths.is_dense", lambda codes: False)


@pytest.mark.usefixtures("few")
def test_the_selector_takes_them_and_waits_for_nothing(kernels, gpu: torch.device) -> None:
    select, expected = (PairSelector("coactivation", per_feature=1) for _ in range(2))
    for turn in range(2):
        batch = acts(turn, batch=6)
        codes = _there(Codes.of(batch))
        waits.clear()
        got = select(codes)
        assert got.path == "owners"
        assert bool(waits) == (turn == 0)  # the first one is looked at
        assert isinstance(got.slots.score, Pretend)
        for name in ("i", "j", "score"):
            assert torch.equal(getattr(got, name).cpu(), getattr(expected(batch), name))
    assert sum(kernels.values()) == 2 * 19


def _there(codes: Codes) -> Codes:
    parts = (pretend(part) for part in (codes.crow, codes.row, codes.col, codes.value))
    return Codes(*parts, codes.d_sae)


@pytest.mark.usefixtures("few")
def test_blocks_agree_where_the_kernels_gave_up(kernels, gpu: torch.device, monkeypatch) -> None:
    monkeypatch.setattr(Size, "slots", property(lambda self: 8))
    batch = torch.ones(2, D_SAE)
    select = PairSelector("coactivation", per_feature=0.125)
    got, expected = select(_there(Codes.of(batch))), PairSelector(per_feature=0.125)(batch)
    assert torch.equal(got.i.cpu(), expected.i) and torch.equal(got.j.cpu(), expected.j)
    assert not select._owners.run_on(gpu)
