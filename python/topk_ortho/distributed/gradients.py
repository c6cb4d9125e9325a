"""Gradients, added up over all processes in one flat bucket.

`4 * parameters` bytes a process in one all-reduce. Each process's loss is the mean over its own
rows times its share of the batch, so the sum is the gradient of the mean over all rows. Every
process gets the same bits; they differ between numbers of processes by the order of the sum.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from topk_ortho.distributed.world import World


class Bucket:
    """A buffer for the gradients of some parameters, which are views of it afterwards.

    Args:
        parameters: each contiguous, or with a contiguous transpose.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._flat: Tensor | None = None

    def add_up(self, numbers: list[Tensor], world: World) -> list[Tensor]:
        """Replace all gradients by their sums over the processes.

        Args:
            numbers: scalars that are added up with them.
            world: the processes.

        Returns:
            The sums of the numbers.
        """
        held = [p for p in self._parameters if p.grad is not None]
        size = sum(p.numel() for p in held) + len(numbers)
        if self._flat is None or len(self._flat) != size:
            self._flat = held[0].new_empty(size)
        flat, start = self._flat, 0
        for parameter in held:
            stop = start + parameter.numel()
            view = flat[start:stop].view_as(_laid_out(parameter))
            view.copy_(_laid_out(parameter, parameter.grad))
            parameter.grad = _laid_out(parameter, view)
            start = stop
        flat[start:] = torch.stack([number.detach().to(flat.dtype) for number in numbers])
        world.add_up_(flat, "the gradients of the other processes")
        return list(flat[start:].clone())


def _laid_out(parameter: nn.Parameter, tensor: Tensor | None = None) -> Tensor:
    """Returns a parameter, or a tensor of its shape, as it lies in memory; twice is once."""
    tensor = parameter if tensor is None else tensor
    return tensor if parameter.is_contiguous() else tensor.T
