"""What a process holds, in bytes: allocator figures on CUDA, resident set elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import torch


def memory_in_use(device: torch.device) -> tuple[int, int]:
    """`(allocated, reserved)`; on CPU the resident set now and its peak."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = peak if sys.platform == "darwin" else peak * 1024
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak, peak
    return int(statm.read_text().split()[1]) * resource.getpagesize(), peak
