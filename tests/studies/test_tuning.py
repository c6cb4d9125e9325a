"""The rule that chooses coefficients, and that every arm gets the same number of tries."""

from __future__ import annotations

from collections import Counter

import pytest

from topk_ortho.config import ConfigError, PenaltyConfig, TrainConfig
from topk_ortho.studies import tuning
from topk_ortho.studies.grid import Axis
from topk_ortho.studies.plan import subjects
from topk_ortho.studies.tuning import weigh

TAU = Axis("penalty.tau", ("fixed", "mean-std"))


def figures(excess, explained_variance, seeds=3):
    return [{"excess": excess, "explained_variance": explained_variance}] * seeds


def taken(*tries, none=0.9):
    return weigh(tries, none=none)[1]


def test_the_lowest_excess_among_those_that_lose_little():
    tries = (1.0, figures(0.05, 0.9)), (2.0, figures(0.02, 0.893)), (4.0, figures(0.01, 0.891))
    assert taken(*tries).coefficient == 2.0


def test_the_highest_explained_variance_where_all_lose_much():
    tries = (1.0, figures(0.05, 0.85)), (2.0, figures(0.02, 0.87)), (4.0, figures(0.0, 0.8))
    assert taken(*tries).coefficient == 2.0


def test_a_tie_goes_to_the_weaker_penalty():
    assert taken((2.0, figures(0.02, 0.9)), (1.0, figures(0.02, 0.9))).coefficient == 1.0


def test_a_setting_with_a_failed_run_is_not_taken():
    broken = [*figures(0.0, 0.95, seeds=2), None]
    assert taken((1.0, figures(0.05, 0.9)), (2.0, broken)).coefficient == 1.0
    assert taken((2.0, broken)) is None


def test_without_ground_truth_explained_variance_decides():
    assert taken((1.0, figures(None, 0.9)), (2.0, figures(None, 0.91))).coefficient == 2.0


def test_every_arm_with_a_coefficient_gets_the_same_number_of_tries():
    found = list(subjects(TrainConfig(), (TAU,), ("none", "rate-matched-random", "ortsae")))
    tries = tuning.tries(found)
    counts = Counter(t.subject.label for t in tries)
    assert set(counts.values()) == {len(tuning.FACTORS)}
    assert set(counts) == {s.label for s in found} - {"none"}
    assert {run.seed for t in tries for run in t.runs} == {0, 1, 2}
    assert {run.label for run in tuning.references(found)} == {"none"}


def test_the_reported_runs_take_what_was_chosen():
    found = list(subjects(TrainConfig(), (), ("none",)))
    tries, nones = tuning.tries(found), tuning.references(found)
    best = tries[3].coefficient

    def result(run):
        return {
            "excess": 0.1 - 0.05 * (run.config.coefficient() == best and run.config.constrained),
            "explained_variance": 0.9,
        }

    chosen, record = tuning.choose(found, tries, nones, result)
    assert [s.config.constrained for s in chosen] == [False, True]
    assert chosen[0] == found[0]
    assert chosen[1].config.coefficient() == best
    assert [t["coefficient"] for t in record[0]["tried"]] == [t.coefficient for t in tries]


def test_what_cannot_be_tuned_is_refused():
    zero = TrainConfig(penalty=PenaltyConfig(coefficient=0.0))
    with pytest.raises(ConfigError, match="coefficient 0"):
        tuning.tries(list(subjects(zero, (), ("none",))))
    with pytest.raises(ConfigError, match="--without-arm none"):
        tuning.references(list(subjects(TrainConfig(), (), ("ortsae",))))


def test_the_documents_runs_are_not_tuned():
    found = list(subjects(TrainConfig(), (), ("none", "fixed-tau")))
    assert {t.subject.label for t in tuning.tries(found)} == {"default"}


def test_a_difference_that_is_noise_goes_to_the_weaker_penalty():
    def seeds(*excess):
        return [{"excess": value, "explained_variance": 0.9} for value in excess]

    noisy = (1.0, seeds(0.00, 0.03, -0.02)), (12.0, seeds(0.01, -0.02, 0.01))
    assert taken(*noisy).coefficient == 1.0
    clear = (1.0, seeds(0.11, 0.13, 0.08)), (12.0, seeds(0.01, 0.02, -0.01))
    assert taken(*clear).coefficient == 12.0


def test_nothing_is_tried_where_there_is_nothing_to_remove():
    found = list(subjects(TrainConfig(), (), ("none", "random")))
    tries, nones = tuning.tries(found), tuning.references(found)

    def left(*excess):
        return lambda run: {"excess": excess[run.seed], "explained_variance": 0.9}

    assert tuning.worth_tuning(tries, nones, left(0.1, 0.12, 0.11)) == tries
    for excess in ((0.03, 0.004, -0.004), (-0.01, -0.02, 0.0)):
        assert tuning.worth_tuning(tries, nones, left(*excess)) == []
    chosen, record = tuning.choose(found, [], nones, left(0.0, 0.0, 0.0))
    assert [s.config.coefficient() for s in chosen] == [s.config.coefficient() for s in found]
    assert [entry["tried"] for entry in record] == [[], []]


def test_an_excess_below_0_is_none_and_the_weakest_of_these_is_taken():
    tries = (1.0, figures(-0.004, 0.9)), (2.0, figures(-0.02, 0.899))
    assert taken(*tries).coefficient == 1.0
