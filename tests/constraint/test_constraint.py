"""When pairs are selected, what they weigh, and what is remembered of them."""

from __future__ import annotations

import time

import pytest
import torch

from tests.training.states import D_IN, D_SAE, state
from topk_ortho.constraint.history import PairHistory
from topk_ortho.sparse.codes import Codes
from topk_ortho.training.constraint import Constraint

ALWAYS_ON = {"penalty": {"ramp": 0.0}}


def constraint(**table) -> Constraint:
    built = state(**{**ALWAYS_ON, **table}).constraint
    assert built is not None
    return built


def codes(seed: int) -> Codes:
    generator = torch.Generator().manual_seed(seed)
    acts = torch.rand(16, D_SAE, generator=generator)
    return Codes.of(acts * (acts > 0.8))


def rows(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    # a common part, so that cosines exceed the threshold
    W = torch.randn(D_SAE, D_IN, generator=generator) + 1
    return W / W.norm(dim=1, keepdim=True)


RATES = torch.linspace(0.1, 0.9, D_SAE)


def cost(c: Constraint, *, step: int, seed: int = 0) -> float:
    return float(c(codes(seed), rows(), RATES, step, {"W_dec": rows()}))


@pytest.mark.parametrize(
    ("table", "weight"),
    [
        ({}, 2.0 * D_IN),
        ({"pairs": {"criterion": "coactive-cosine"}}, 0.2 * D_IN),
        ({"pairs": {"criterion": "random"}}, 1.0 * D_IN),
        ({"pairs": {"criterion": "random-matched"}}, 1.0 * D_IN),
        ({"pairs": {"criterion": "ortsae"}}, 0.1 * D_IN),
        ({"penalty": {"units": "absolute"}}, 2.0),
        ({"penalty": {"coefficient": 0.5}}, 0.5 * D_IN),
        ({"penalty": {"coefficient": 0.5, "units": "absolute"}}, 0.5),
        ({"penalty": {"coefficient": 0.0}}, 0.0),
    ],
)
def test_the_coefficient_goes_by_criterion_and_units(table, weight):
    table = {**table, "penalty": {"ramp": 0.0, **table.get("penalty", {})}}
    c = constraint(**table)
    assert c.weight == pytest.approx(weight)
    selection = c.selector(codes(0), W_dec=rows(), step=5)
    bare = float(c.penalty(rows(), selection, firing_rate=RATES))
    assert bare > 0
    assert cost(c, step=5) == pytest.approx(weight * bare)


def test_without_a_criterion_there_is_no_constraint():
    assert state(pairs={"criterion": "none"}).constraint is None


def test_the_coefficient_rises_over_the_ramp():
    full = cost(constraint(), step=60)
    c = constraint(penalty={"ramp": 0.2})  # of 100 steps
    assert cost(c, step=0) == 0
    assert cost(c, step=5) == pytest.approx(full / 4)
    assert cost(c, step=20) == pytest.approx(full)


def test_every_n_leaves_steps_out_and_multiplies():
    full = cost(constraint(), step=60)
    c = constraint(penalty={"ramp": 0.0, "every_n": 3})
    assert [cost(c, step=step) for step in range(6)] == pytest.approx([3 * full, 0, 0] * 2)
    assert c.settled_history().observations == 2  # a step left out selects nothing


def test_ortsae_on_every_fifth_step_is_five_times_its_definition():
    ortsae = {"criterion": "ortsae"}
    penalty = {"ramp": 0.0, "threshold": 0.0, "gradient": "symmetric", "every_n": 5}
    c = constraint(pairs=ortsae, penalty=penalty)
    found = [cost(c, step=step) for step in range(6)]
    cosine = rows() @ rows().T - 2 * torch.eye(D_SAE)
    mean_square = float(cosine.max(1).values.square().mean())
    assert found == pytest.approx([5 * 0.1 * D_IN * mean_square, 0, 0, 0, 0, found[0]])
    assert c.settled_history().observations == 2


def test_refresh_every_keeps_the_pairs_in_between():
    c = constraint(penalty={"ramp": 0.0, "refresh_every": 3})
    chosen, at = [], []
    for step in range(7):
        c(codes(step), rows(), RATES, step)
        chosen.append(c.selection)
        at.append(c.selected_at)
    assert at == [0, 0, 0, 3, 3, 3, 6]
    assert chosen[0] is chosen[1] is chosen[2]
    assert not torch.equal(chosen[2].i, chosen[3].i) or not torch.equal(chosen[2].j, chosen[3].j)
    assert c.settled_history().observations == 3


def test_kept_pairs_are_priced_on_the_present_rows():
    c = constraint(penalty={"ramp": 0.0, "refresh_every": 9})
    before = float(c(codes(0), rows(0), RATES, 0))
    after = float(c(codes(1), rows(1), RATES, 1))
    assert before != after
    assert after == pytest.approx(
        c.weight * float(c.penalty(rows(1), c.selection, firing_rate=RATES))
    )


def test_the_selection_follows_the_schedule():
    c = constraint(
        pairs={"fraction": 0.01, "final_fraction": 0.2, "schedule": "linear", "schedule_steps": 50}
    )
    pairs = D_SAE * (D_SAE - 1) // 2
    for step, fraction in ((0, 0.01), (25, 0.105), (50, 0.2), (80, 0.2)):
        cost(c, step=step)
        assert c.selection.requested == round(fraction * pairs)


def naive_history(steps: int, c: Constraint) -> PairHistory:
    history = PairHistory(capacity=1 << 20, decay=0.99)
    for step in range(steps):
        selection = c.selector(codes(step), W_dec=rows(), step=step)
        history.observe(step, selection.i, selection.j)
    return history


@pytest.mark.parametrize("queue", [1, 8])
@pytest.mark.parametrize("seconds", [0.0, 0.003])
def test_what_is_observed_depends_on_neither_queue_nor_timing(queue, seconds, monkeypatch):
    observe = PairHistory.observe

    def slow(self, *arguments):
        time.sleep(seconds)
        observe(self, *arguments)

    expected = naive_history(20, constraint()).to_bytes()
    monkeypatch.setattr(PairHistory, "observe", slow)
    c = constraint(history={"queue": queue})
    for step in range(20):
        cost(c, step=step, seed=step)
    assert c.settled_history().to_bytes() == expected


def test_stability_weighs_by_the_history_of_exactly_the_step_before(monkeypatch):
    observe = PairHistory.observe
    synchronous = PairHistory(capacity=1 << 20, decay=0.9)
    c = constraint(penalty={"tau": "stability", "ramp": 0.0}, history={"decay": 0.9})

    def slow(self, *arguments):
        time.sleep(0.003)
        observe(self, *arguments)

    monkeypatch.setattr(PairHistory, "observe", slow)
    for step in range(15):
        c(codes(step % 4), rows(), RATES, step)
        s = c.selection
        expected = 0.9 * torch.from_numpy(synchronous.ema(s.i, s.j)) + 0.1
        torch.testing.assert_close(c.ema.double(), expected.double())
        observe(synchronous, step, s.i, s.j)
    assert c.ema.max() > c.ema.min()


def test_a_history_that_is_switched_off_keeps_nothing():
    c = constraint(history={"enabled": False})
    assert cost(c, step=0) > 0
    assert c.settled_history() is None


def test_capacity_is_at_least_a_million_entries():
    c = constraint()
    cost(c, step=0)
    assert c.settled_history().capacity == 1 << 20
    c = constraint(history={"capacity": 77})
    cost(c, step=0)
    assert c.settled_history().capacity == 77


@pytest.mark.fault("batches without a pair of active features")
def test_a_batch_in_which_nothing_fires_costs_nothing():
    c = constraint()
    empty = Codes.of(torch.zeros(16, D_SAE))
    value = c(empty, rows(), RATES, 0)
    assert float(value) == 0
    assert len(c.selection) == 0
