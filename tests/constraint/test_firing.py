"""Running firing rates and who counts as dead."""

from __future__ import annotations

import torch

from topk_ortho.constraint.firing import Firing


def test_rates_start_from_the_first_batch_and_then_average():
    firing = Firing.zeros(3, torch.device("cpu"))
    firing.update(torch.tensor([10, 5, 0]), batch=10)
    assert firing.rate.tolist() == [1.0, 0.5, 0.0]
    firing.update(torch.tensor([0, 5, 10]), batch=10)
    torch.testing.assert_close(firing.rate, torch.tensor([0.99, 0.5, 0.01]))


def test_silence_is_counted_and_ends_with_firing():
    firing = Firing.zeros(2, torch.device("cpu"))
    for counts in ([0, 1], [0, 0], [0, 3]):
        firing.update(torch.tensor(counts), batch=4)
    assert firing.silent.tolist() == [3, 0]
    assert firing.dead(2).tolist() == [0]
    assert firing.dead(3).tolist() == []  # silent for more than so many steps
    firing.update(torch.tensor([1, 0]), batch=4)
    assert firing.silent.tolist() == [0, 1]
