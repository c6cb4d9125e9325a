"""Memory during a selection: every tensor that is made, by the function that made it.

Sees each operation of torch, and so each tensor, including those from Rust; what a kernel
holds inside one operation it does not see. Costs some microseconds per operation.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PACKAGE = str(Path(__file__).parents[2]) + os.sep


class Ledger(TorchDispatchMode):
    """A context that accounts for the tensors made in it.

    Args:
        given: tensors that exist beforehand, which do not count.

    Attributes:
        peak: bytes held when most were held.
        at_peak: the same by the function that made the tensors, such as
            `constraint/selection/paths.py add`.
    """

    def __init__(self, given: Iterable[Tensor]):
        super().__init__()
        self._given = {storage_of(tensor).cdata for tensor in given}
        self._held: dict[int, tuple[StorageWeakRef, str, int]] = {}
        self.peak = 0
        self.at_peak: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self._held = {key: held for key, held in self._held.items() if not held[0].expired()}
        for leaf in tree_leaves((args, kwargs, out)):
            if isinstance(leaf, Tensor):
                self._enter(leaf)
        total = sum(size for _, _, size in self._held.values())
        if total > self.peak:
            self.peak, self.at_peak = total, self._by_maker()
        return out

    def _enter(self, tensor: Tensor) -> None:
        reference = storage_of(tensor)
        if reference.cdata not in self._given and reference.cdata not in self._held:
            size = tensor.untyped_storage().nbytes()
            self._held[reference.cdata] = (reference, _maker(), size)

    def _by_maker(self) -> dict[str, int]:
        sizes: Counter[str] = Counter()
        for _, maker, size in self._held.values():
            sizes[maker] += size
        return dict(sizes.most_common())


def storage_of(tensor: Tensor) -> StorageWeakRef:
    """Returns what identifies a piece of memory, without keeping it alive."""
    return StorageWeakRef(tensor.untyped_storage())


def _maker() -> str:
    """Returns file and function of the innermost frame of the package besides this file."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE) and path != __file__:
            return f"{path.removeprefix(PACKAGE)} {frame.f_code.co_name}".replace(os.sep, "/")
        frame = frame.f_back
    return "elsewhere"
