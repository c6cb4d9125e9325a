"""The constraint in a host's own loop under DDP: every process has the pairs of all rows."""

from __future__ import annotations

import pytest

from tests.distributed.started import together
from topk_ortho import Orthogonality
from topk_ortho.config import ConfigError


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return together("tests.distributed.drop_in", cwd=tmp_path_factory.mktemp("ddp"), size=2)


def test_pairs_and_firing_rates_are_those_of_all_rows(found):
    alone = found[0]["alone"]
    for each in found:
        assert each["together"]["pairs"] == alone["pairs"]
        assert each["together"]["rate"] == alone["rate"]
        assert each["together"]["penalty"] == pytest.approx(alone["penalty"], rel=1e-6)


def test_the_mean_of_gradients_is_the_gradient_of_all_rows(found):
    for each in found:
        for step, gradient in enumerate(found[0]["alone"]["gradient"]):
            assert each["together"]["gradient"][step] == pytest.approx(gradient, abs=2e-5)


def test_a_group_says_which_processes_share_an_sae(found):
    for each in found:
        assert each["both"]["pairs"] == found[0]["alone"]["pairs"]
        assert each["own"]["pairs"] == each["local"]["pairs"]


@pytest.mark.parametrize(
    ("how", "alone"),
    [("uneven", "alone, uneven"), ("seldom", "alone, seldom"), ("parts", "alone, parts")],
)
def test_uneven_rows_kept_pairs_and_micro_batches_change_nothing(found, how, alone):
    for each in found:
        assert each[how]["pairs"] == found[0][alone]["pairs"]
        assert each[how]["rate"] == found[0][alone]["rate"]


def test_a_scope_of_another_name_is_refused():
    with pytest.raises(ConfigError, match="scope"):
        Orthogonality(scope="everywhere")


def test_a_local_scope_has_the_pairs_of_its_own_rows(found):
    first, second = (each["local"]["pairs"] for each in found)
    assert first != second
    assert first != found[0]["alone"]["pairs"]


def test_processes_that_are_no_copies_are_told_so(found):
    for each in found:
        features, steps, local = each["group"]
        assert "the processes have the features [96, 97]" in features
        assert "the processes have the steps [0, 1]" in steps
        assert 'scope="local"' in features
        assert local == ""
        assert "weighed by activity" in each["weighed"]


def test_a_decoder_in_shards_is_gathered(found):
    for each in found:
        value, whole, same_gradient = each["shards"]
        assert value == whole > 0
        assert same_gradient


def test_another_number_of_processes_goes_on_from_the_state(found):
    rate, pairs = found[0]["resumed"]
    assert rate == found[0]["alone"]["rate"]
    assert pairs > 0
    assert found[0]["state"] == found[1]["state"]
