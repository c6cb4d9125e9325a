"""The device and threads of a run, and what the manifest records of both."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.train import CORES, PER_CORE

# Below about so many multiply-adds a step, a second thread costs more than it brings.
ONE_THREAD_STEP = 2e9
CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last one is ARM's
PACKAGES = ("topk-ortho", "torch", "numpy", "scipy", "safetensors", "transformers",
            "transformer_lens")  # fmt: skip


def choose_device(name: str, option: str = "device") -> torch.device:
    """Returns the device of `--device`, or of another option.

    Raises:
        ConfigError: not a device, or CUDA where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"--{option} {name} was given, but auto, cpu or cuda was expected; correct it."
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"--{option} {name} was given, but torch sees no CUDA device; take --{option} cpu."
        )
    return device


def choose_threads(config: TrainConfig, d_in: int) -> int:
    """Returns `--threads`, or one for small steps and all that are allowed for large ones.

    A run that was begun on a machine with more cores gets no more threads than this one can use.
    """
    if config.threads:
        return min(config.threads, PER_CORE * CORES)
    work = 6.0 * config.batch_size * d_in * config.sae.d_sae
    return 1 if work < ONE_THREAD_STEP else threads_allowed()


def threads_allowed() -> int:
    """Returns all cores, or as many as `OMP_NUM_THREADS` allows this process."""
    cores = os.cpu_count() or 1
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(allowed)) if allowed.isdecimal() and int(allowed) else cores


def has_bf16_products() -> bool | None:
    """Returns whether the processor multiplies bfloat16 matrices itself; None if unknown."""
    if not CPUINFO.exists():
        return None
    flags = set(CPUINFO.read_text().split())
    return bool(flags & BF16_FLAGS) if flags & {"flags", "Features"} else None


def describe(config: TrainConfig, device: torch.device, threads: int) -> dict[str, Any]:
    """Returns versions, hardware and commit, for `manifest.json`."""
    return {
        "seed": config.seed,
        "versions": versions(PACKAGES),
        "hardware": {
            "platform": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": threads,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        },
        "git_commit": git_commit(),
    }


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Returns the version of Python and of each package by name, None for one not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in packages}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """Returns the processor's name."""
    if CPUINFO.exists():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """Returns the commit of the checkout that the package runs from, None outside one."""
    here = Path(__file__)

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(here.parent), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package may lie inside somebody else's checkout.
    return git("rev-parse", "HEAD") if git("ls-files", "--error-unmatch", here.name) else None


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, so that a step's temporaries cost page faults only once.

    For entry points: it changes the whole process, which then holds its peak until it ends. Does
    nothing where the C library is another one.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # M_* of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 64 * 2**20)
