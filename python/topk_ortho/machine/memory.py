"""Memory that a process holds or could still get, in bytes: by allocator on CUDA, else by page."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")


def memory_in_use(device: torch.device) -> tuple[int, int]:
    """Returns `(allocated, reserved)`; on CPU the resident set now and its peak."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = peak if sys.platform == "darwin" else peak * 1024
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak, peak
    resident = int(statm.read_text().split()[1]) * resource.getpagesize()
    return resident, max(peak, resident)  # the kernel counts the two at different moments


def memory_available(device: torch.device) -> int | None:
    """Returns what the device could still give, without swap; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [figure for figure in (_machine(), _container()) if figure is not None]
    return min(found, default=None)


def release_freed() -> None:
    """Have glibc return what is freed and kept, so that what is in use can be read off.

    Does nothing where the C library is another one. Costs the page faults of what is used again.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _machine() -> int | None:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _container() -> int | None:
    """Returns what is left of a control group's limit (v2); file pages can be dropped."""
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None  # no control group, or "max": no limit
    return max(0, limit - used + int(stat.get("inactive_file", 0)))
