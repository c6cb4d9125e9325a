"""`topk-ortho`: one command for everything. A module of `commands/` is a command."""

from __future__ import annotations

import os
import pkgutil
import sys
from importlib import import_module
from types import ModuleType

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler's own log; before torch as well

from topk_ortho import __version__, commands
from topk_ortho.commands.reader.output import fail, guarded
from topk_ortho.config.errors import nearest

GONE = {
    "results": "it is `make results` in a checkout now",
    "bars": "it is `make bars SETTING=forest-240` in a checkout now",
}
"""Commands that were removed, and what replaces them."""


def names() -> list[str]:
    """Returns the name of every command."""
    return sorted(m.name for m in pkgutil.iter_modules(commands.__path__) if not m.ispkg)


def command(name: str) -> ModuleType:
    """Returns the module of a command: its `Options`, and `run(arguments, prog=...)`."""
    return import_module(f"{commands.__name__}.{name}")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    arguments = _help_asked(arguments)
    if arguments in (["--version"], ["-V"]):
        print(f"topk-ortho {__version__}")
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_listing())
        return 0 if arguments else 2
    name, *rest = arguments
    if name in GONE:
        return fail(f"the command {name} was given, but {GONE[name]}; see topk-ortho --help.")
    if name not in names():
        return fail(f"the command {name} was given, but there is no such command"
                    f"{nearest(name, names())}; see topk-ortho --help.")  # fmt: skip
    return guarded(lambda: command(name).run(rest, prog=f"topk-ortho {name}"))


def _help_asked(arguments: list[str]) -> list[str]:
    """Returns the words with `help` and `help COMMAND` as `--help` and `COMMAND --help`."""
    if arguments[:1] != ["help"]:
        return arguments
    return [*arguments[1:2], "--help"]


def _listing() -> str:
    """Returns every command with the first line of its module."""
    width = max(map(len, names())) + 2
    lines = [f"  {n:<{width}}{(command(n).__doc__ or '').splitlines()[0]}" for n in names()]
    return "\n".join([
        "usage: topk-ortho COMMAND [OPTIONS]", "", *lines, "",
        "`topk-ortho COMMAND --help` shows a command's options, and `topk-ortho --version` the "
        "version.",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
