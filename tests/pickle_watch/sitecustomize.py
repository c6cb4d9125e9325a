"""Notices every class that a pickle is looked up for on behalf of the package, in any process.

The suite imports it, and what the package unpickles fails the test. Python imports it by its name
in the subprocesses of the tests (`tests.conftest.environment`), which end with code 99. Pickles of
others, such as pytest's or a process pool's own, are not the package's, and neither are the job
files that submitit writes and reads itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

PACKAGE, ALLOWED = "topk_ortho", "submitit"
CODE = 99


def install(found: Callable[[str], None]) -> None:
    """Call `found` with every class that the package has a pickle look up, and from where."""

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == "pickle.find_class" and (where := _package_line()):
            found(f"{given[0]}.{given[1]} by {where}")

    sys.addaudithook(hook)


def _package_line() -> str | None:
    """The innermost line of the package that is being executed."""
    frame = sys._getframe(2)
    while frame is not None:
        package = _module(frame.f_globals).partition(".")[0]
        if package == ALLOWED:
            return None
        if package == PACKAGE:
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _module(names: dict[str, Any]) -> str:
    """The name of the module with these globals, also where it runs as `python -m`."""
    spec = names.get("__spec__")
    return str(spec.name if spec is not None else names.get("__name__", ""))


def _end(found: str) -> None:
    sys.stderr.write(f"error: unpickled {found}\n")
    sys.stderr.flush()
    os._exit(CODE)


if __name__ == "sitecustomize":
    install(_end)
