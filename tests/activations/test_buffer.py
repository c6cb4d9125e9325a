"""The shuffling buffer: every row once an epoch, another order each time, exact positions."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch

from tests.activations.sources import Endless, Numbered
from topk_ortho.activations import ShuffleBuffer
from topk_ortho.config import ConfigError

SIZES = (7, 11, 5, 13, 2, 9)


def buffer(
    source: Numbered | None = None, *, batch_size: int = 4, rows: int = 16, seed: int = 0
) -> ShuffleBuffer:
    return ShuffleBuffer(source or Numbered(*SIZES), batch_size=batch_size, rows=rows, seed=seed)


def numbers(batch: torch.Tensor) -> list[int]:
    return batch[:, 0].int().tolist()


def epoch(data: ShuffleBuffer, number: int) -> list[list[int]]:
    """The batches of one epoch, from its start."""
    data.load_state_dict({"epoch": number, "block": 0, "row": 0})
    batches = []
    while True:
        batch = numbers(data.next())
        if data.cursor.epoch != number:
            return batches
        batches.append(batch)


@pytest.mark.parametrize("rows", [1, 16, 1000])
@pytest.mark.parametrize("batch_size", [1, 4, 10])
def test_every_row_once_an_epoch_up_to_the_rest_of_a_filling(rows: int, batch_size: int) -> None:
    for number in range(4):
        data = buffer(rows=rows, batch_size=batch_size)
        batches = epoch(data, number)
        assert all(len(batch) == batch_size for batch in batches)
        seen = Counter(row for batch in batches for row in batch)
        assert set(seen.values()) == {1}
        assert set(seen) <= set(range(sum(SIZES)))
        # fillings by hand: blocks in this epoch's order until there are enough rows
        order = data.source.asked[: len(SIZES)]
        assert sorted(order) == list(range(len(SIZES)))
        kept, filling = 0, 0
        for n, block in enumerate(order):
            filling += SIZES[block]
            if filling >= max(rows, batch_size) or n == len(order) - 1:
                kept, filling = kept + filling // batch_size * batch_size, 0
        assert len(seen) == kept
        if rows == 1000:
            assert sum(SIZES) - kept < batch_size


def test_epochs_follow_each_other_in_other_orders() -> None:
    data = buffer()
    epochs = [epoch(data, number) for number in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    asked = data.source.asked
    assert len({tuple(asked[n : n + 6]) for n in range(0, 12, 6)}) == 2
    together = buffer()
    flat = [numbers(together.next()) for _ in range(sum(map(len, epochs)))]
    assert flat == [batch for each in epochs for batch in each]


def test_rows_of_several_blocks_are_mixed() -> None:
    batch = buffer(rows=1000, batch_size=20).next()
    assert len(set(batch[:, 1].tolist())) >= 3
    assert numbers(batch) != sorted(numbers(batch))


def test_the_seed_decides_the_order() -> None:
    first, same, other = (
        [numbers(data.next()) for _ in range(8)]
        for data in (buffer(seed=1), buffer(seed=1), buffer(seed=2))
    )
    assert first == same
    assert first != other


@pytest.mark.parametrize("endless", [True, False])
def test_a_position_can_be_taken_up_exactly_at_any_point(endless: bool) -> None:
    def fresh() -> ShuffleBuffer:
        return buffer(Endless(7) if endless else Numbered(*SIZES))

    data, states, batches = fresh(), [], []
    for _ in range(40):
        states.append(json.loads(json.dumps(data.state_dict())))
        batches.append(numbers(data.next()))
    assert endless or states[-1]["epoch"] >= 2
    for at, state in enumerate(states):
        resumed = fresh()
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert [numbers(resumed.next()) for _ in range(5)][: 40 - at] == batches[at : at + 5]
    data.load_state_dict(states[3])  # back in the same buffer
    assert numbers(data.next()) == batches[3]


@pytest.mark.parametrize("taken", [0, 2, 9, 30])
def test_a_fork_goes_on_alone(taken: int) -> None:
    data, alone = buffer(), buffer()
    for _ in range(taken):
        data.next()
        alone.next()
    fork = data.fork()
    assert fork.state_dict() == data.state_dict()
    expected = [numbers(alone.next()) for _ in range(25)]
    assert [numbers(fork.next()) for _ in range(25)] == expected
    assert [numbers(data.next()) for _ in range(25)] == expected


def test_a_batch_larger_than_the_data_is_refused() -> None:
    data = buffer(batch_size=48)
    with pytest.raises(ConfigError, match="--batch-size 48 was given, but the data has only 47"):
        data.next()
    assert len(buffer(batch_size=47).next()) == 47


def test_a_batch_as_large_as_a_part_of_the_data_takes_what_fits() -> None:
    """The last filling of an epoch is too short for a batch: the next epoch begins."""
    data = buffer(Numbered(10, 10, 10), batch_size=15, rows=1)
    epochs = []
    for _ in range(4):
        assert len(set(numbers(data.next()))) == 15
        epochs.append(data.cursor.epoch)
    assert epochs == [0, 1, 2, 3]


def test_endless_data_is_read_in_order_and_once() -> None:
    source = Endless(8)
    data = buffer(source, batch_size=4, rows=16)
    seen = [row for _ in range(24) for row in numbers(data.next())]
    assert sorted(seen) == list(range(96))
    assert seen != sorted(seen)
    assert source.asked == list(range(12))
    assert data.cursor.epoch == 0
    for filling in range(6):
        part = seen[16 * filling : 16 * (filling + 1)]
        assert sorted(part) == list(range(16 * filling, 16 * (filling + 1)))


def test_fillings_are_shuffled_in_different_ways() -> None:
    data = buffer(Endless(8), batch_size=16, rows=16)
    orders = {tuple(n % 16 for n in numbers(data.next())) for _ in range(6)}
    assert len(orders) == 6


def test_a_filling_that_was_interrupted_is_read_again() -> None:
    """Wherever a signal cuts the reading, the position is that after the last batch."""
    whole = buffer()
    batches = [numbers(whole.next()) for _ in range(30)]
    for cut in range(1, len(whole.source.asked) + 1):
        data, given = buffer(), []
        block = data.source.block

        def cut_short(index, split, *, data=data, block=block, cut=cut):
            if len(data.source.asked) == cut:
                data.source.asked.append(-1)
                raise KeyboardInterrupt
            return block(index, split)

        data.source.block = cut_short  # type: ignore[method-assign]
        while len(given) < 30:
            try:
                given.append(numbers(data.next()))
            except KeyboardInterrupt:
                stored = data.state_dict()
                data = buffer()
                data.load_state_dict(stored)
        assert given == batches, cut
