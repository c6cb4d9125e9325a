"""`python -m topk_ortho.train`: the command `train`, and `topk_ortho.train(...)` from Python."""

from __future__ import annotations

import os
import sys
import types
from typing import Any

# A spinning second thread takes the core that the first one needs; has to be set before torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler's own log; before torch as well

from topk_ortho import __version__
from topk_ortho.commands import train as command
from topk_ortho.commands.reader.output import guarded


def main(arguments: list[str] | None = None, *, prog: str = "python -m topk_ortho.train") -> int:
    """Run one command line; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if words == ["--version"]:
        print(f"topk-ortho {__version__}")
        return 0
    return guarded(lambda: command.run(words, prog=prog))


class _Callable(types.ModuleType):
    """Keeps `topk_ortho.train(...)` a function also after this module has been imported."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        from topk_ortho.training import train

        return train(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    sys.exit(main())
