"""The part that all benchmarks share: the machine, interleaved timing, memory, results in JSON.

Callables are timed in turn (A B C A B C ...) in one process, so that a machine that slows down or
is shared hits all of them alike; what is compared are medians, with quartiles beside them. Memory
is the growth of a separate process. Importing this sets `OMP_WAIT_POLICY=passive`, as
`python -m topk_ortho.train` does, so import it before torch.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import ctypes
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from topk_ortho.machine import hardware

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
CORES = os.cpu_count() or 1
PACKAGES = ("torch", "numpy", "scipy", "pandas")
# Keeps freed memory in the process (glibc): otherwise every large tensor is mapped and zeroed
# by the kernel, which is a quarter of a dense training step.
KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_MMAP_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**28),
}
SETTINGS = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", *KEEP_MEMORY)
Row = dict[str, Any]


@dataclass(frozen=True)
class Rival:
    """Something to time.

    Attributes:
        name: what the table calls it.
        call: what is timed; takes what `setup` returned, where there is one.
        threads: of torch and of the Rust extension.
        rounds: fewer rounds than the others take part in; 0 stands for all.
        setup: run before each call, untimed.
    """

    name: str
    call: Callable[..., Any]
    threads: int = CORES
    rounds: int = 0
    setup: Callable[[], Any] | None = None

    def once(self) -> float:
        """Seconds of one call."""
        torch.set_num_threads(self.threads)
        given = () if self.setup is None else (self.setup(),)
        began = time.perf_counter()
        self.call(*given)
        return time.perf_counter() - began


def interleave(rivals: Sequence[Rival], *, rounds: int, warmup: int = 2) -> list[Row]:
    """One row per rival: threads, and median, quartiles, mean and number of its calls, in ms."""
    spent: dict[str, list[float]] = {rival.name: [] for rival in rivals}
    for number in range(-warmup, rounds):
        for rival in rivals:
            few = rival.rounds or rounds
            if number >= few or (few < rounds and number < -1):
                continue
            seconds = rival.once()
            if number >= 0:
                spent[rival.name].append(seconds)
    return [row(r.name, spent[r.name], threads=r.threads) for r in rivals]


def row(name: str, seconds: Sequence[float], **more: Any) -> Row:
    """Median, quartiles and mean of some calls, in ms."""
    ms = [1e3 * s for s in seconds]
    q1, _, q3 = quantiles(ms, n=4, method="inclusive") if len(ms) > 1 else (ms[0], 0, ms[0])
    return {
        "name": name,
        "ms": median(ms),
        "q1": q1,
        "q3": q3,
        "mean": sum(ms) / len(ms),
        "calls": len(ms),
        **more,
    }


def keep_memory(script: str) -> None:
    """Start the program again with `KEEP_MEMORY`, which glibc reads when a process starts."""
    if KEEP_MEMORY.keys() - os.environ.keys():
        command = [sys.executable, str(HERE / script), *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **KEEP_MEMORY})


def plain_environment() -> dict[str, str]:
    """The environment without `KEEP_MEMORY`."""
    return {name: value for name, value in os.environ.items() if name not in KEEP_MEMORY}


def growth(call: Callable[[], Any]) -> int:
    """Bytes by which this process grows at most while `call` runs (Linux).

    Whatever is loaded on first use should have been used before, on something small.
    """
    ctypes.CDLL(None).malloc_trim(0)  # else freed memory is used again and hides the growth
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _status("VmRSS:")
    call()
    return _status("VmHWM:") - before


def growth_alone(script: str, name: str, *arguments: str) -> float | None:
    """MB that `script --memory name` reports from a separate process; None where it cannot."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        return None
    command = [sys.executable, str(HERE / script), "--memory", name, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env=plain_environment(), check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return int(done.stdout.split()[-1]) / 1e6


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {name}")


def describe() -> dict[str, Any]:
    """Hardware, versions, settings and commit."""
    return {
        "processor": _processor(),
        "cores": CORES,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 1),
        "versions": hardware.versions(PACKAGES),
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    wide = cpuinfo.exists() and "avx512f" in cpuinfo.read_text()
    return hardware.processor() + (", AVX-512" if wide else "")


def _commit() -> str | None:
    commit = hardware.git_commit()
    command = ["git", "-C", str(HERE), "status", "--porcelain", "--untracked-files=no", "--",
               ":/python", ":/rust"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return commit and commit[:7] + (" with changes" if done.stdout.strip() else "")


def parser(about: str) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    out = argparse.ArgumentParser(description=about.splitlines()[0])
    out.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all")
    out.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON results")
    out.add_argument("--memory", default="", help=argparse.SUPPRESS)
    return out


def write(name: str, options: argparse.Namespace, **content: Any) -> None:
    """`<out>/<name>.json`: the machine, the settings, and what was measured."""
    options.out.mkdir(parents=True, exist_ok=True)
    record = {"bench": name, "quick": options.quick, "machine": describe(), **content}
    path = options.out / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {path}")


def show(title: str, rows: Sequence[Row]) -> None:
    """Print one table."""
    print(f"\n{title}")
    width = max(len(r["name"]) for r in rows)
    for r in rows:
        spread = f"{r['ms']:10.2f} ms  [{r['q1']:.2f}, {r['q3']:.2f}]  mean {r['mean']:.2f}"
        rest = f"  {r['calls']} calls, {r['threads']} threads" if "threads" in r else ""
        memory = f"  +{r['extra_mb']:.0f} MB" if r.get("extra_mb") is not None else ""
        print(f"  {r['name']:{width}}{spread}{rest}{memory}", flush=True)
