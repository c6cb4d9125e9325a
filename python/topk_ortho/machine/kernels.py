"""Triton kernels: whether they can run here, and their launch.

Kernels are Python source of this package. Triton compiles them when they are first launched, once
for a GPU and a version of Triton, into its cache folder (`TRITON_CACHE_DIR`).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

LEAST_CAPABILITY = (8, 0)  # 64-bit atomics and shared memory as the kernels expect them

Launcher = Callable[[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]], None]


def _compiled(
    kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], how: dict[str, Any]
) -> None:
    kernel[grid](*args, **how)


_launcher: Launcher = _compiled


def run_on(device: torch.device) -> bool:
    """Returns whether kernels run on a device: an NVIDIA GPU with Triton, or a stand-in of one."""
    return device.type == "cuda" and (_launcher is not _compiled or _usable(device.index or 0))


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **how: Any) -> None:
    """Run a kernel; `how` are its constants and Triton's options.

    Products and sums are not fused unless asked, so that a score has the bits that torch gives it.
    """
    _launcher(kernel, grid, args, {"enable_fp_fusion": False} | how)


def launched_by(launcher: Launcher) -> Launcher:
    """Sends launches to an interpreter, or to a counter; returns where they went before."""
    global _launcher
    before, _launcher = _launcher, launcher
    return before


@functools.cache
def _usable(index: int) -> bool:
    if not torch.cuda.is_available() or torch.version.hip is not None:
        return False
    if torch.cuda.get_device_capability(index) < LEAST_CAPABILITY:
        return False
    try:
        import triton
    except ImportError:
        log.info("Triton is not installed, so pairs are selected and penalised in torch")
        return False
    log.info("GPU kernels are compiled at first use (Triton %s)", triton.__version__)
    return True


def next_power_of_two(n: int) -> int:
    """Returns the smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def address(tensor: Tensor | None, instead: Tensor) -> Tensor:
    """Returns a pointer argument: the tensor, or any other where a kernel will not read it."""
    return instead if tensor is None else tensor
