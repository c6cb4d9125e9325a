"""Copies from a GPU to the host that the step does not wait for.

A copy goes into pinned memory on a stream of its own, behind the work that its source comes from.
Who needs the numbers waits for that copy alone, later, or in another thread.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor


class Copy:
    """A copy that is under way; `result` waits for it."""

    def __init__(self, pool: Transfer, held: list[Tensor], event: torch.cuda.Event | None) -> None:
        self._pool, self._held, self._event = pool, held, event
        self._result: tuple[Tensor, ...] | None = None

    def result(self) -> tuple[Tensor, ...]:
        """Returns the copies on the host, in memory of their own."""
        if self._result is None:
            if self._event is not None:
                self._event.synchronize()
            self._result = tuple(tensor.clone() for tensor in self._held)
            self._pool.give_back(self._held)
        return self._result


class Transfer:
    """A pool of pinned buffers, allocated once for each shape and used again, and their stream."""

    def __init__(self) -> None:
        self._free: dict[tuple[tuple[torch.Size, torch.dtype], ...], list[list[Tensor]]] = {}
        self._lock = threading.Lock()
        self._stream: torch.cuda.Stream | None = None

    def start(self, *tensors: Tensor) -> Copy:
        """Begin to copy tensors of one device, as they are now."""
        tensors = tuple(tensor.detach() for tensor in tensors)
        held = self._take(tensors)
        if not torch.cuda.is_available() or not tensors[0].is_cuda:
            for to, tensor in zip(held, tensors, strict=True):
                to.copy_(tensor, non_blocking=True)
            return Copy(self, held, None)
        device = tensors[0].device
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            for to, tensor in zip(held, tensors, strict=True):
                to.copy_(tensor, non_blocking=True)
                tensor.record_stream(self._stream)
            event = torch.cuda.Event()
            event.record(self._stream)
        return Copy(self, held, event)

    def _take(self, tensors: tuple[Tensor, ...]) -> list[Tensor]:
        with self._lock:
            free = self._free.get(_shapes(tensors))
            if free:
                return free.pop()
        pinned = torch.cuda.is_available()
        return [torch.empty(t.shape, dtype=t.dtype, pin_memory=pinned) for t in tensors]

    def give_back(self, held: list[Tensor]) -> None:
        """Take buffers of a finished copy for later ones."""
        with self._lock:
            self._free.setdefault(_shapes(tuple(held)), []).append(held)


def _shapes(tensors: tuple[Tensor, ...]) -> tuple[tuple[torch.Size, torch.dtype], ...]:
    return tuple((tensor.shape, tensor.dtype) for tensor in tensors)
