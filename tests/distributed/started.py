"""Processes that a test starts together, as torchrun does, and what they tell it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import environment

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 400


def environment_of_tests() -> dict[str, str]:
    """An environment in which started processes find the package and the tests."""
    given = environment()
    paths = f"{given['PYTHONPATH']}{os.pathsep}{ROOT}"
    return {**given, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0"}


def torchrun(*words: str, cwd: Path, size: int, options: tuple[str, ...] = ()) -> list[str]:
    """The command that starts `size` processes of `python -m WORDS`."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size),
        "--master-port", str(free_port()), *options, "-m", *words,
    ]  # fmt: skip


def train(
    *words: str, cwd: Path, size: int, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run `torchrun -m topk_ortho.train WORDS` to its end."""
    return subprocess.run(
        torchrun("topk_ortho.train", *words, cwd=cwd, size=size, options=options),
        cwd=cwd,
        env=environment_of_tests(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def together(module: str, *words: str, cwd: Path, size: int) -> list[Any]:
    """What each of `size` processes of a module of the tests wrote to `rank-N.json` in `cwd`."""
    done = subprocess.run(
        torchrun(module, str(cwd), *words, cwd=cwd, size=size),
        cwd=cwd,
        env=environment_of_tests(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((cwd / f"rank-{rank}.json").read_text()) for rank in range(size)]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
