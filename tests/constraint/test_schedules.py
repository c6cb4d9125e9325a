"""Schedules against their formulas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topk_ortho.constraint import schedules

EXPERIMENT = {"start": 0.001, "end": 0.005, "steps": 10_000}


@pytest.mark.parametrize(
    ("u", "expected"), [(0, 0.001), (0.5, 0.0046717), (1, 0.0049730), (3, 0.0049730)]
)
def test_exponential(u, expected):
    value = schedules.fraction(round(u * 10_000), kind="exponential", **EXPERIMENT)
    assert value == pytest.approx(expected, abs=5e-8)


@pytest.mark.parametrize(("u", "expected"), [(0, 0.001), (0.5, 0.003), (1, 0.005), (3, 0.005)])
def test_linear(u, expected):
    value = schedules.fraction(round(u * 10_000), kind="linear", **EXPERIMENT)
    assert value == pytest.approx(expected)


def test_constant():
    assert schedules.fraction(7, kind="constant", start=0.1, end=None, steps=10) == 0.1


def test_learning_rate_warms_up_stays_and_falls_to_nothing():
    def at(step: int) -> float:
        return schedules.learning_rate(
            step, peak=2.0, steps=1000, warmup_steps=100, decay_fraction=0.3
        )

    assert at(0) == pytest.approx(0.02)
    assert at(49) == pytest.approx(1.0)
    assert at(99) == at(400) == at(700) == 2.0
    assert at(850) == pytest.approx(1.0)
    assert at(999) == pytest.approx(2 / 300)
    assert at(1000) == 0


def test_learning_rate_without_warm_up_and_decay():
    assert schedules.learning_rate(0, peak=3.0, steps=9, warmup_steps=0, decay_fraction=0) == 3.0


def test_ramp():
    values = [schedules.ramp(step, steps=100, share=0.05) for step in (0, 1, 5, 100)]
    assert values == pytest.approx([0, 0.2, 1, 1])
    assert schedules.ramp(0, steps=100, share=0) == 1


@given(
    st.sampled_from(["constant", "linear", "exponential"]),
    st.floats(1e-6, 1),
    st.floats(1e-6, 1),
    st.integers(0, 1000),
    st.integers(1, 500),
)
def test_a_fraction_stays_between_its_ends(kind, start, end, step, steps):
    value = schedules.fraction(step, kind=kind, start=start, end=end, steps=steps)
    assert min(start, end) - 1e-12 <= value <= max(start, end) + 1e-12
