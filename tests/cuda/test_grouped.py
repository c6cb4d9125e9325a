"""The penalty's kernels in Triton's interpreter against the torch path: cost and gradient."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.cuda.pretend import Pretend, pretend, waits
from topk_ortho import OrthogonalityPenalty
from topk_ortho.constraint.penalty import grouped
from topk_ortho.constraint.penalty.grouped import GroupsOfBoth
from topk_ortho.constraint.penalty.orthogonality import TAUS
from topk_ortho.constraint.slots import Slots

D_SAE, WIDTH, K = 14, 5, 40


class Chosen(SimpleNamespace):
    """A selection in slots, of which some are empty, and its pairs."""


def chosen(*, empty: int) -> Chosen:
    generator = torch.Generator().manual_seed(0)
    at = torch.randperm(D_SAE * (D_SAE - 1) // 2, generator=generator)[:K]
    i, j = torch.triu_indices(D_SAE, D_SAE, 1)[:, at]
    score = torch.rand(K, generator=generator) + 0.1
    score[K - empty :] = 0
    n = K - empty
    pairs = SimpleNamespace(i=i[:n], j=j[:n], score=score[:n])
    return Chosen(slots=Slots(i, j, score), pairs=pairs)


def rows(scale: float = 1.0) -> torch.Tensor:
    W = torch.randn(D_SAE, WIDTH, generator=torch.Generator().manual_seed(1)) + 0.4
    W[3] = 0
    return W * scale


RATE = torch.rand(D_SAE, generator=torch.Generator().manual_seed(2)).round(decimals=1)


def compare(tau: float | str, W: torch.Tensor, launched, empty: int = 7, **options: str) -> None:
    """With equal rates, a row of zeros, and pairs of both signs."""
    given, ema = chosen(empty=empty), torch.rand(K, generator=torch.Generator().manual_seed(3))
    here = torch.nn.Parameter(W)
    penalty = OrthogonalityPenalty(tau, backend="torch", **options)
    expected = penalty(here, given.pairs, firing_rate=RATE, ema=ema[: K - empty], coefficient=3.0)
    expected.backward()
    there = torch.nn.Parameter(pretend(W))
    pairs = given.pairs
    if tau != "stability":
        parts = (given.slots.i.int(), given.slots.j.int(), given.slots.score)
        pairs = SimpleNamespace(slots=Slots(*map(pretend, parts)))
    else:
        pairs = SimpleNamespace(**{name: pretend(part) for name, part in vars(pairs).items()})
    waits.clear()
    cost = OrthogonalityPenalty(tau, **options)(
        there, pairs, firing_rate=pretend(RATE), ema=pretend(ema[: K - empty]), coefficient=3.0
    )
    cost.backward()
    assert isinstance(cost, Pretend) and launched["pair_penalty"]
    assert bool(launched["add_parts"]) == (options.get("gradient") == "symmetric")
    assert sum(waits.values()) == (tau == "stability")  # foreign pairs are checked
    torch.testing.assert_close(cost.cpu(), expected)
    torch.testing.assert_close(there.grad.cpu(), here.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tau", TAUS)
def test_a_penalty_in_groups_is_that_in_torch(tau: str, kernels, gpu: torch.device) -> None:
    compare(tau, rows(), kernels, normalize_by="k")


def test_both_signs_count(kernels, gpu: torch.device) -> None:
    compare(0.05, rows(), kernels, sign="both")


@pytest.mark.parametrize("tau", ["mean-std", "strength", "stability"])
@pytest.mark.parametrize("cut", [2, 3, 256])
def test_both_rows_move_in_groups_of_any_cut(
    cut: int, tau: str, kernels, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped, "CUT", cut)
    compare(tau, rows(), kernels, gradient="symmetric", sign="both", normalize_by="k")


def test_a_hub_is_cut_into_parts_that_hold_each_of_its_pairs_once(
    kernels, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped, "CUT", 4)
    i, j = torch.zeros(13, dtype=torch.int32), torch.arange(1, 14, dtype=torch.int32)
    score = torch.ones(13)
    score[5] = 0
    groups = GroupsOfBoth(i, j, score, D_SAE)
    hub = groups.row_of == 0
    begin = groups.end - groups.counts
    held = [groups.parent[a:b] for a, b in zip(begin[hub], groups.end[hub], strict=True)]
    assert [len(part) for part in held if len(part)] == [4, 4, 4]
    assert torch.cat(held).tolist() == [other for other in range(1, 14) if other != 6]
    assert int(groups.counts.sum()) == 2 * 12


def test_slots_in_another_order_change_no_bit(kernels, gpu: torch.device) -> None:
    given, found = chosen(empty=0).slots, []
    for order in (torch.arange(K), torch.arange(K - 1, -1, -1)):
        slots = Slots(*(pretend(part[order]) for part in vars(given).values()))
        W = torch.nn.Parameter(pretend(rows()))
        penalty = OrthogonalityPenalty(0.05, gradient="symmetric")
        cost = penalty(W, SimpleNamespace(slots=slots))
        cost.backward()
        found.append((cost.detach().cpu(), W.grad.cpu()))
    assert torch.equal(found[0][1], found[1][1]) and torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_rows_of_any_norm_keep_their_cosines(scale: float, kernels, gpu: torch.device) -> None:
    given = chosen(empty=0)
    W = torch.nn.Parameter(pretend(rows(scale)))
    slots = SimpleNamespace(slots=Slots(*map(pretend, vars(given.slots).values())))
    cost = OrthogonalityPenalty(0.05)(W, slots, firing_rate=pretend(RATE))
    plain = OrthogonalityPenalty(0.05, backend="torch")(rows(), given.pairs, firing_rate=RATE)
    torch.testing.assert_close(cost.detach().cpu(), plain)


def test_all_slots_empty_cost_nothing(kernels, gpu: torch.device) -> None:
    compare("strength-threshold", rows(), kernels, empty=K - 1)


def test_a_row_that_is_not_finite_is_not_hidden(kernels, gpu: torch.device) -> None:
    W = rows()
    W[0, 0] = torch.nan
    slots = SimpleNamespace(slots=Slots(*map(pretend, vars(chosen(empty=0).slots).values())))
    cost = OrthogonalityPenalty(0.05)(
        torch.nn.Parameter(pretend(W)), slots, firing_rate=pretend(RATE)
    )
    assert cost.isnan().cpu()


def test_no_kernel_takes_other_dtypes(kernels, gpu: torch.device) -> None:
    given = chosen(empty=0)
    slots = SimpleNamespace(slots=Slots(*map(pretend, vars(given.slots).values())))
    rate = pretend(RATE)
    OrthogonalityPenalty(0.05)(
        torch.nn.Parameter(pretend(rows().double())), slots, firing_rate=rate
    )
    assert not kernels
