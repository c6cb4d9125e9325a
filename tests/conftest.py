"""What every test starts from: one thread, the built extension, and a way to run a command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

from tests.fault_count import FaultCount

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_configure(config: pytest.Config) -> None:
    try:
        import topk_ortho._core  # noqa: F401
    except ImportError as error:
        raise pytest.UsageError(
            f"the Rust extension cannot be imported ({error}), but every test needs it; run "
            "`make setup` (or `maturin develop`), then the tests with the same Python."
        ) from None
    config.pluginmanager.register(FaultCount())
    # Tiny runs have few pairs to choose from; that the warning comes is tested by itself.
    config.addinivalue_line("filterwarnings", "ignore:.*hardly anything is being selected")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def environment() -> dict[str, str]:
    """The environment of a subprocess that finds the same package as the tests."""
    import topk_ortho

    root = str(Path(topk_ortho.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(arguments)`: a Python subprocess in `tmp_path`, by default `-m topk_ortho.train`."""

    def call(
        arguments: list[str], *, module: str = "topk_ortho.train", timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        start = [sys.executable, "-m", module] if module else [sys.executable]
        return subprocess.run(
            [*start, *arguments],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return call
