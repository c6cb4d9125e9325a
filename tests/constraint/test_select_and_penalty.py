"""When pairs are selected, what they weigh, and what is remembered of them."""

from __future__ import annotations

import time

import pytest
import torch

from tests.training.states import D_IN, D_SAE, state
from topk_ortho.constraint.history import PairHistory
from topk_ortho.constraint.orthogonality import Orthogonality
from topk_ortho.sparse.codes import Codes

ALWAYS_ON = {"penalty": {"ramp": 0.0}}


def constraint(**table) -> Orthogonality:
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


def penalty(c: Orthogonality, batch: Codes, W_dec: torch.Tensor, step: int) -> torch.Tensor:
    """What a loop does that hands everything over."""
    pairs = c.select(batch, step=step, W_dec=W_dec)
    return c.penalty(pairs, W_dec, step=step, firing_rate=RATES)


def cost(c: Orthogonality, *, step: int, seed: int = 0) -> float:
    return float(penalty(c, codes(seed), rows(), step))


@pytest.mark.parametrize(
    ("table", "weight"),
    [
        ({}, 2.0 * D_IN),
        ({"pairs": {"criterion": "coactive-cosine"}}, 0.2 * D_IN),
        ({"pairs": {"criterion": "random"}}, 1.0 * D_IN),
        ({"pairs": {"criterion": "rate-matched-random"}}, 1.0 * D_IN),
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
    bare = float(c.overlap(rows(), selection, firing_rate=RATES))
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
    assert c.history.observations == 2  # a step left out selects nothing


def test_ortsae_on_every_fifth_step_is_five_times_its_definition():
    ortsae = {"criterion": "ortsae"}
    table = {"ramp": 0.0, "threshold": 0.0, "gradient": "symmetric", "every_n": 5}
    c = constraint(pairs=ortsae, penalty=table)
    found = [cost(c, step=step) for step in range(6)]
    cosine = rows() @ rows().T - 2 * torch.eye(D_SAE)
    mean_square = float(cosine.max(1).values.square().mean())
    assert found == pytest.approx([5 * 0.1 * D_IN * mean_square, 0, 0, 0, 0, found[0]])
    assert c.history.observations == 2


def test_refresh_every_keeps_the_pairs_in_between():
    c = constraint(penalty={"ramp": 0.0, "refresh_every": 3})
    chosen, at = [], []
    for step in range(7):
        penalty(c, codes(step), rows(), step)
        chosen.append(c.selection)
        at.append(c.selected_at)
    assert at == [0, 0, 0, 3, 3, 3, 6]
    assert chosen[0] is chosen[1] is chosen[2]
    assert not torch.equal(chosen[2].i, chosen[3].i) or not torch.equal(chosen[2].j, chosen[3].j)
    assert c.history.observations == 3


def test_kept_pairs_are_penalised_on_the_present_rows():
    c = constraint(penalty={"ramp": 0.0, "refresh_every": 9})
    before = float(penalty(c, codes(0), rows(0), 0))
    after = float(penalty(c, codes(1), rows(1), 1))
    assert before != after
    assert after == pytest.approx(
        c.weight * float(c.overlap(rows(1), c.selection, firing_rate=RATES))
    )


def test_the_selection_follows_the_schedule():
    c = constraint(
        pairs={"fraction": 0.01, "final_fraction": 0.2, "schedule": "linear", "schedule_steps": 50}
    )
    pairs = D_SAE * (D_SAE - 1) // 2
    for step, fraction in ((0, 0.01), (25, 0.105), (50, 0.2), (80, 0.2)):
        cost(c, step=step)
        assert c.selection.requested == round(fraction * pairs)


def naive_history(steps: int, c: Orthogonality) -> PairHistory:
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
    assert c.history.to_bytes() == expected


def test_stability_weighs_by_the_history_of_exactly_the_step_before(monkeypatch):
    observe = PairHistory.observe
    synchronous = PairHistory(capacity=1 << 20, decay=0.9)
    c = constraint(penalty={"tau": "stability", "ramp": 0.0}, history={"decay": 0.9})

    def slow(self, *arguments):
        time.sleep(0.003)
        observe(self, *arguments)

    monkeypatch.setattr(PairHistory, "observe", slow)
    for step in range(15):
        penalty(c, codes(step % 4), rows(), step)
        s = c.selection
        expected = 0.9 * torch.from_numpy(synchronous.ema(s.i, s.j)) + 0.1
        torch.testing.assert_close(c.ema.double(), expected.double())
        observe(synchronous, step, s.i, s.j)
    assert c.ema.max() > c.ema.min()


def test_a_history_that_is_switched_off_keeps_nothing():
    c = constraint(history={"enabled": False})
    assert cost(c, step=0) > 0
    assert c.history is None


def test_capacity_is_at_least_a_million_entries():
    c = constraint()
    cost(c, step=0)
    assert c.history.capacity == 1 << 20
    c = constraint(history={"capacity": 77})
    cost(c, step=0)
    assert c.history.capacity == 77


@pytest.mark.fault("batches without a pair of active features")
def test_a_batch_in_which_nothing_fires_costs_nothing():
    c = constraint()
    empty = Codes.of(torch.zeros(16, D_SAE))
    value = penalty(c, empty, rows(), 0)
    assert float(value) == 0
    assert len(c.selection) == 0
