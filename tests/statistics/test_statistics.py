"""Intervals against scipy, against hand-computed cases, and what must be unavailable."""

from __future__ import annotations

import math
import random

import pytest
import scipy.stats

from topk_ortho.statistics import (
    Difference,
    holm,
    l0_matched,
    mean,
    non_inferior,
    paired,
    reduction_per_percent,
    relative_change,
    relative_reduction,
    verdict,
)

NONE = {100: 0.50, 101: 0.60, 102: 0.55, 103: 0.70, 104: 0.58}
ARM = {100: 0.20, 101: 0.22, 102: 0.25, 103: 0.31, 104: 0.19}


def sample(n: int, seed: int, *, centre: float = 0.5, spread: float = 0.1) -> dict[int, float]:
    draw = random.Random(seed)
    return {100 + i: draw.gauss(centre, spread) for i in range(n)}


def made(low: float, high: float, *, p: float = 0.01) -> Difference:
    return Difference(
        mean=(low + high) / 2, low=low, high=high, p=p, n=5, missing=0, confidence=0.95
    )


@pytest.mark.parametrize("n", [2, 3, 10, 40])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_paired_is_scipys_paired_t_test(n, confidence):
    arm, control = sample(n, 1), sample(n, 2, centre=0.45)
    ours = paired(arm, control, confidence=confidence)
    test = scipy.stats.ttest_rel(list(arm.values()), list(control.values()))
    interval = test.confidence_interval(confidence)
    assert ours is not None
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-10)
    assert ours.p == pytest.approx(test.pvalue, rel=1e-9)
    assert (ours.n, ours.missing) == (n, 0)


def test_paired_by_hand():
    # differences 1, 2, 3: mean 2, standard error 1 / sqrt 3; t(2 degrees, .975) = 4.302653
    ours = paired({0: 2.0, 1: 4.0, 2: 6.0}, {0: 1.0, 1: 2.0, 2: 3.0})
    assert ours is not None
    assert ours.mean == 2
    assert ours.high - ours.mean == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)


def test_seeds_are_matched_by_name_and_not_by_order():
    shuffled = dict(sorted(ARM.items(), reverse=True))
    assert paired(shuffled, NONE) == paired(ARM, NONE)


@pytest.mark.parametrize("hole", [None, math.nan, math.inf, "0.2", True])
def test_a_value_that_is_no_finite_number_drops_its_pair(hole):
    fewer = {seed: value for seed, value in ARM.items() if seed != 102}
    ours, expected = paired({**ARM, 102: hole}, NONE), paired(fewer, NONE)
    assert ours == expected
    assert (ours.n, ours.missing) == (4, 1)


@pytest.mark.parametrize(
    ("arm", "control"),
    [
        ({}, {}),
        ({100: 0.2}, {100: 0.5}),
        (ARM, {200: 0.5, 201: 0.6}),
        ({100: 0.2, 101: None}, NONE),
    ],
)
def test_fewer_than_two_pairs_are_unavailable(arm, control):
    assert paired(arm, control) is None
    assert relative_change(arm, control) is None
    assert relative_reduction(arm, control) is None
    held = non_inferior(arm, control, margin=0.1)
    assert (held.verdict, held.loss, held.bound, held.p) == ("unavailable", None, None, None)
    assert verdict(None, better="lower") == "unavailable"
    assert reduction_per_percent(None, made(0.1, 0.2)) is None


def test_the_same_run_twice_is_no_change():
    ours = paired(NONE, NONE)
    assert ours is not None
    assert (ours.mean, ours.low, ours.high, ours.p) == (0, 0, 0, 1)
    assert verdict(ours, better="lower") == "no detectable change"


def test_constant_differences_have_no_width():
    ours = paired({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0})
    assert ours is not None
    assert (ours.low, ours.high, ours.p) == (1, 1, 0)


def test_mean_of_one_arm():
    ours = mean(NONE)
    values = list(NONE.values())
    low, high = scipy.stats.t.interval(
        0.95, len(values) - 1, loc=sum(values) / 5, scale=scipy.stats.sem(values)
    )
    assert (ours.low, ours.high) == pytest.approx((low, high))
    one = mean({100: 0.3, 101: None})
    assert (one.mean, one.low, one.high, one.n, one.missing) == (0.3, None, None, 1, 1)
    assert mean({100: None}) is None


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_non_inferiority_is_scipys_one_sided_test(better):
    arm, control = sample(10, 3, spread=0.004), sample(10, 4, spread=0.004)
    sign = 1 if better == "higher" else -1
    # the arm is not inferior when sign * (arm - control) lies above - margin
    gains = [sign * (arm[s] - control[s]) for s in control]
    test = scipy.stats.ttest_1samp(gains, -0.003, alternative="greater")
    ours = non_inferior(arm, control, margin=0.003, better=better)
    assert ours.p == pytest.approx(test.pvalue, rel=1e-9)
    bound = scipy.stats.ttest_1samp(gains, 0, alternative="greater").confidence_interval(0.95).low
    assert ours.bound == pytest.approx(-bound, rel=1e-9)
    assert ours.verdict == ("holds" if test.pvalue < 0.05 else "does not hold")


def test_non_inferiority_with_a_small_loss_a_large_one_and_scatter():
    control = dict.fromkeys(range(5), 0.9)
    near = {s: 0.899 + 1e-5 * s for s in control}
    far = {s: 0.896 + 1e-5 * s for s in control}
    scattered = {s: 0.9 + 0.02 * (-1) ** s for s in control}
    assert non_inferior(near, control, margin=0.003).verdict == "holds"
    assert non_inferior(far, control, margin=0.003).verdict == "does not hold"
    assert non_inferior(scattered, control, margin=0.003).verdict == "does not hold"
    assert verdict(paired(scattered, control), better="higher") == "no detectable change"
    assert verdict(paired(near, control), better="higher") == "worse"


def test_the_ratios_interval_is_what_a_paired_t_test_does_not_reject():
    change = relative_change(ARM, NONE)
    for ratio, inside in ((change.low, None), (change.high, None), (change.mean, True)):
        rest = [ARM[s] - (1 + ratio) * NONE[s] for s in NONE]
        p = scipy.stats.ttest_1samp(rest, 0).pvalue
        assert p > 0.05 if inside else p == pytest.approx(0.05, abs=1e-9)
    assert change.mean == pytest.approx(sum(ARM.values()) / sum(NONE.values()) - 1)
    reduction = relative_reduction(ARM, NONE)
    assert (reduction.mean, reduction.low, reduction.high) == (
        -change.mean,
        -change.high,
        -change.low,
    )


@pytest.mark.parametrize("seed", range(30))
def test_ratio_and_difference_agree_on_what_is_detectable(seed):
    arm, control = sample(6, seed, centre=0.42), sample(6, seed + 1000)
    difference, ratio = paired(arm, control), relative_change(arm, control)
    assert difference.detectable == ratio.detectable
    assert difference.p == ratio.p


def test_a_share_of_nothing_is_unavailable():
    around_zero = {0: 0.01, 1: -0.01, 2: 0.02, 3: -0.015}
    assert relative_reduction(dict.fromkeys(around_zero, 0.0), around_zero) is None
    below = {s: v - 1 for s, v in around_zero.items()}
    assert relative_reduction(around_zero, below) is None


def test_holm_by_hand():
    # .01 * 4, .02 * 3, .03 * 2 held up to .06, .8 * 1
    given = {"c": 0.03, "a": 0.01, "d": 0.8, "b": 0.02, "gone": None}
    expected = {"c": 0.06, "a": 0.04, "d": 0.8, "b": 0.06, "gone": None}
    adjusted = holm(given)
    assert list(adjusted) == list(given)
    assert {k: v and round(v, 12) for k, v in adjusted.items()} == expected
    assert holm({}) == {}
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_holm_refuses_what_is_no_p(p):
    with pytest.raises(ValueError, match="from 0 to 1"):
        holm({"a": p, "b": 0.5})


def test_verdicts():
    fell, rose, covers = made(-0.3, -0.1), made(0.1, 0.3), made(-0.1, 0.3)
    assert verdict(fell, better="lower") == verdict(rose, better="higher") == "better"
    assert verdict(rose, better="lower") == verdict(fell, better="higher") == "worse"
    assert verdict(covers, better="lower") == "no detectable change"
    assert verdict(made(0.0, 0.3), better="lower") == "no detectable change"
    assert verdict(fell, better="lower", adjusted_p=0.04) == "better"
    assert verdict(fell, better="lower", adjusted_p=0.06) == "no detectable change"


def test_reduction_per_percent_needs_a_cost_that_is_there():
    absorption = made(-0.4, -0.2)
    assert reduction_per_percent(absorption, made(0.05, 0.15)) == pytest.approx(0.03)
    assert reduction_per_percent(absorption, made(-0.05, 0.15)) is None
    assert reduction_per_percent(absorption, made(-0.2, -0.1)) is None
    assert reduction_per_percent(absorption, None) is None


def test_l0_matches_within_three_per_cent():
    control = {0: 8.0, 1: 8.0}
    assert l0_matched({0: 8.2, 1: 8.2}, control) is True
    assert l0_matched({0: 8.3, 1: 8.3}, control) is False
    assert l0_matched({0: None}, control) is None
    assert l0_matched({0: 8.0}, {0: 0.0}) is None


@pytest.mark.parametrize("confidence", [0, 1, 95, math.nan])
def test_a_confidence_that_is_none_is_refused(confidence):
    for call in (
        lambda: paired(ARM, NONE, confidence=confidence),
        lambda: mean(ARM, confidence=confidence),
        lambda: relative_change(ARM, NONE, confidence=confidence),
        lambda: non_inferior(ARM, NONE, margin=0.1, confidence=confidence),
    ):
        with pytest.raises(ValueError, match="between 0 and 1"):
            call()


@pytest.mark.parametrize("margin", [0, -0.003, math.nan])
def test_a_margin_that_is_none_is_refused(margin):
    with pytest.raises(ValueError, match="above 0"):
        non_inferior(ARM, NONE, margin=margin)


def test_sums_beyond_all_numbers_are_unavailable():
    assert paired({1: 1.7e308, 2: 1.7e308}, {1: -1.0, 2: -1.0}) is None


def test_below_0_there_is_nothing_left_to_remove():
    control = {seed: -0.001 + 0.0001 * seed for seed in range(3)}
    lower = {seed: value - 0.012 for seed, value in control.items()}
    higher = {seed: value + 0.5 for seed, value in control.items()}
    fell, rose = paired(lower, control), paired(higher, control)
    assert verdict(fell, better="lower", control=control) == "nothing to remove"
    assert verdict(rose, better="lower", control=control) == "worse"
    above = dict.fromkeys(range(3), 0.3)
    assert verdict(fell, better="lower", control=above) == "better"
    assert verdict(fell, better="lower", control=dict.fromkeys(range(3))) == "better"
