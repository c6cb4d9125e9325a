"""Runs of a few steps that are watched, killed or refused at any call that changes a file.

`WritePoints` compiles `write_points.c` and starts one process with it preloaded, which imports the
package, prepares the data, and forks a child for every run: a fork costs a tenth of an import.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import environment
from tests.system.tiny_run import tiny, words

SOURCE = Path(__file__).with_suffix(".c")
WATCH, KILL, TEAR, FULL, FAIL = range(5)
OPTIONS = words(
    "--steps 5 --checkpoint-every 2 --keep-checkpoints 1 --log-every 1 --eval-samples 64 "
    "--buffer-rows 256 --history.capacity 200 --pairs.per-feature 1"
)


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        signal: what killed it, 0 for none.
        error: the type and text of the exception that ended it, "" for none.
        calls: what changed files, in order, as `(name, path below the run's parent)`.
    """

    signal: int
    error: str
    calls: list[tuple[str, str]]


def compiler() -> str | None:
    """A C compiler, None where there is none."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


class WritePoints:
    """A process that trains in forked children with `write_points.c` before libc.

    Args:
        folder: for the library.
    """

    def __init__(self, folder: Path):
        library = folder / "write_points.so"
        command = [str(compiler()), "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE)]
        subprocess.run([*command, "-ldl"], check=True)
        root = str(Path(__file__).parents[2])
        given = environment()
        given["PYTHONPATH"] = f"{root}{os.pathsep}{given['PYTHONPATH']}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.write_points", str(library)],
            env={**given, "LD_PRELOAD": str(library)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, folder: Path, *, at: int = -1, action: int = WATCH) -> Ended:
        """Train in `folder`, or go on there if it exists, with `action` at the call `at`."""
        assert self._process.stdin and self._process.stdout
        asked = {"folder": str(folder), "at": at, "action": action}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        lines = (folder.parent / "calls").read_text().splitlines()
        calls = [(name, os.path.relpath(path, folder.parent)) for name, path in
                 (line.split("\t") for line in lines)]  # fmt: skip
        return Ended(answer["signal"], answer["error"], calls)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def serve(library: str) -> None:
    """Answer every line of stdin with how the run that it asks for ended."""
    import torch

    from topk_ortho.activations import prepare
    from topk_ortho.machine import hardware
    from topk_ortho.training import evaluation, resume, run, train

    torch.set_num_threads(1)
    evaluation.CALIBRATION_ROWS = 256
    for name in ("describe", "announce"):  # the same for every child, and most of its time
        _once(hardware if name == "describe" else run, name)
    config = tiny(*OPTIONS)
    data = prepare(config)
    with tempfile.TemporaryDirectory() as warm:  # imports, and what is computed once
        train(config, Path(warm) / "run", data=data, progress=False)
    arm = ctypes.CDLL(library).arm

    def go(folder: Path) -> None:
        if folder.exists():
            resume(folder, data=data, progress=False)
        else:
            train(config, folder, data=data, progress=False)

    for line in sys.stdin:
        asked = json.loads(line)
        folder = Path(asked["folder"])
        answer = _forked(lambda folder=folder: go(folder), asked, folder, arm)
        print(json.dumps(answer), flush=True)


def _once(module: Any, name: str) -> None:
    """Let a function of a module compute its value once."""
    compute, values = getattr(module, name), []

    def cached(*args: Any, **kwargs: Any) -> Any:
        if not values:
            values.append(compute(*args, **kwargs))
        return values[0]

    setattr(module, name, cached)


def _forked(go: Callable[[], None], asked: dict[str, Any], folder: Path, arm: Any) -> dict:
    said = folder.parent / "error"
    said.write_text("")
    calls = os.open(folder.parent / "calls", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    child = os.fork()
    if child == 0:
        arm(str(folder.parent).encode(), calls, ctypes.c_long(asked["at"]), asked["action"])
        try:
            go()
        except BaseException as error:
            arm(b"", -1, ctypes.c_long(-1), WATCH)
            said.write_text(f"{type(error).__name__}: {error}")
        finally:
            os._exit(0)
    os.close(calls)
    status = os.waitpid(child, 0)[1]
    return {"signal": os.WTERMSIG(status), "error": said.read_text()}


if __name__ == "__main__":
    serve(sys.argv[1])
