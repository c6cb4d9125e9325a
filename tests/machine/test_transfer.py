"""Copies to the host keep what was there when they began, in buffers that are used again."""

from __future__ import annotations

import torch

from topk_ortho.machine.transfer import Transfer


def test_a_copy_is_of_the_moment_it_began() -> None:
    transfer, there = Transfer(), torch.arange(4)
    copy = transfer.start(there, there.float())
    there.zero_()
    whole, real = copy.result()
    assert whole.tolist() == real.tolist() == [0, 1, 2, 3]


def test_buffers_are_used_again_and_results_stay() -> None:
    transfer = Transfer()
    first = transfer.start(torch.tensor([1]))
    kept = first.result()[0]
    buffer = next(iter(transfer._free.values()))[0][0]
    second = transfer.start(torch.tensor([2]))
    assert second._held[0] is buffer
    assert kept.item() == first.result()[0].item() == 1 and second.result()[0].item() == 2
