"""What every test starts from: one thread, the built extension, and a way to run a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "Agg")
if not Path("/dev/nvidia0").exists():  # read as Triton is imported; there is no GPU to compile for
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest

from tests.fault_count import FaultCount
from tests.pickle_watch import sitecustomize as pickle_watch

Run = Callable[..., "subprocess.CompletedProcess[str]"]


unpickled: list[str] = []
"""What the package had a pickle look up, which it never may; empty between tests."""
pickle_watch.install(unpickled.append)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", type=Path, help="page that `-m fault` writes its table to")


def pytest_configure(config: pytest.Config) -> None:
    try:
        import topk_ortho._core  # noqa: F401
    except ImportError as error:
        raise pytest.UsageError(
            f"the Rust extension cannot be imported ({error}), but every test needs it; run "
            "`make setup` (or `maturin develop`), then the tests with the same Python."
        ) from None
    config.pluginmanager.register(FaultCount())
    _hear_signals()
    # Tiny runs have few pairs to choose from; that the warning comes is tested by itself.
    config.addinivalue_line("filterwarnings", "ignore:.*hardly anything is being selected")


def _hear_signals() -> None:
    """Hear signals that the shell had ignored (`nohup`, `&`), as in a terminal: what is ignored
    stays so in every command that the tests start."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name bytes by their length: every process must collect the same names, and bytes that a
    library made may hold the time."""
    return f"{len(val)}-bytes" if isinstance(val, bytes) and len(val) > 8 else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Refuse sets as parameters: their order differs from process to process, and processes that
    collect the same tests in another order cannot share them."""
    for mark in metafunc.definition.iter_markers("parametrize"):
        if len(mark.args) > 1 and isinstance(mark.args[1], set | frozenset):
            name = metafunc.definition.nodeid
            raise TypeError(f"{name} is parametrized with a set, which has no order; sort it")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are whole, whatever width the terminal has that the tests were started from."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def _nothing_is_unpickled() -> Iterator[None]:
    """Fail the test during which the package unpickled something."""
    yield
    found, unpickled[:] = list(unpickled), []
    assert not found, f"the package unpickled {found}"


def _children() -> set[int]:
    found: set[int] = set()
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # that thread has ended meanwhile
            found.update(map(int, children.read_text().split()))
    return found


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """Kill what a test started and, where it failed on the way, did not end (Linux)."""
    before = _children()
    yield
    for pid in _children() - before:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def environment() -> dict[str, str]:
    """The environment of a subprocess that finds the same package as the tests, and ends where
    that unpickles anything."""
    import topk_ortho

    root = str(Path(topk_ortho.__file__).parents[1])
    watch = str(Path(pickle_watch.__file__).parent)
    return {**os.environ, "PYTHONPATH": f"{watch}{os.pathsep}{root}", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(arguments)`: a Python subprocess in `tmp_path`, by default `-m topk_ortho.train`."""

    def call(
        arguments: list[str], *, module: str = "topk_ortho.train", timeout: float = 300
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
