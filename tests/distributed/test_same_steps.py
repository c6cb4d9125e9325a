"""The same weights give the same pairs, rates, dead features and history, bit for bit."""

from __future__ import annotations

import json

import pytest

from tests.distributed import same_steps
from tests.distributed.started import together
from topk_ortho.distributed.world import ALONE


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    found = {arm: same_steps.steps(arm, folder, ALONE) for arm in same_steps.ARMS}
    return folder, json.loads(json.dumps(found))


def assert_same(folder, expected, size):
    for rank, found in enumerate(together("tests.distributed.same_steps", cwd=folder, size=size)):
        for arm, steps in found.items():
            for step, (given, wanted) in enumerate(zip(steps, expected[arm], strict=True)):
                batch, own = wanted.get("rows"), given.pop("rows", None)
                if batch is not None:
                    assert own == batch * (rank + 1) // size - batch * rank // size
                wanted = {name: value for name, value in wanted.items() if name != "rows"}
                assert given == wanted, (arm, step, rank)


def test_two_processes_find_what_one_does(one):
    assert_same(*one, size=2)


@pytest.mark.slow
def test_four_processes_find_what_one_does(one):
    assert_same(*one, size=4)
