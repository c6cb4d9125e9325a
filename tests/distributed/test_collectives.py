"""The room of processes: gathering, the largest of all, process 0 alone, agreement."""

from __future__ import annotations

import pytest

from tests.distributed.started import together
from topk_ortho.config import ConfigError
from topk_ortho.distributed.agreement import check_agreement, checksum
from topk_ortho.distributed.launcher import Launched, launched
from topk_ortho.distributed.world import ALONE


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return together("tests.distributed.collectives", cwd=tmp_path_factory.mktemp("three"), size=3)


def test_codes_are_gathered_whatever_rows_a_process_has(found):
    assert all(each[how] for each in found for how in ("even", "uneven", "one has all"))


def test_the_largest_are_those_of_all(found):
    assert all(each["largest"] and each["all winners"] for each in found)


def test_equal_numbers_are_kept_by_their_place(found):
    threes = list(range(0, 120, 4))
    twos = [at for at in range(120) if at % 4 > 1]
    assert all(each["ties"] == sorted([*threes, *twos[:10]]) for each in found)


def test_what_process_0_finds_reaches_all(found):
    for rank, each in enumerate(found):
        answer, refused, failed = each["first"]
        assert answer == {"answer": 42}
        assert refused == ["ConfigError", "no room for it"]
        assert "No space left on device" in failed[1]
        assert failed[0] == ("PeerError" if rank else "OSError")


def test_a_difference_names_the_process(found):
    for each in found:
        assert "step 7: the weights of process 1 differ" in each["disagreement"]


def test_every_part_is_compared():
    for at, name in enumerate(("weights", "firing rates", "pairs")):
        sums = [[1, 2, 3] for _ in range(4)]
        check_agreement(0, sums)
        sums[3][at] += 1
        with pytest.raises(RuntimeError, match=f"the {name} of process 3 differ"):
            check_agreement(0, sums)


def test_a_checksum_sees_bits_and_places():
    import torch

    x = torch.arange(10.0)
    assert checksum(x) == checksum(x.clone())
    assert checksum(x) != checksum(x.flip(0))
    assert checksum(x) != checksum(torch.nextafter(x, torch.tensor(99.0)))


def test_without_a_launcher_there_is_one_process():
    assert launched({}) == Launched()
    assert launched({"RANK": "1"}) == Launched()  # a batch system may set some of them
    assert not ALONE.shared
    assert ALONE.numbers([3], "nothing") == [[3]]


GIVEN = {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "a", "MASTER_PORT": "1"}


def test_the_local_rank_is_not_the_rank():
    place = launched({**GIVEN, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"})
    assert (place.rank, place.local_rank, place.local_size) == (5, 1, 4)


@pytest.mark.parametrize(
    "wrong", [{"RANK": "8"}, {"LOCAL_RANK": "9"}, {"WORLD_SIZE": "many"}, {"LOCAL_RANK": "-1"}]
)
def test_variables_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(ConfigError, match="start with torchrun"):
        launched({**GIVEN, **wrong})
