"""`python -m topk_ortho.train`: parse, train, print."""

from __future__ import annotations

import os
import sys
import types
from typing import Any

# A spinning second thread takes the core that the first one needs; has to be set before torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from topk_ortho.command_line import RunOptions, fail, parse
from topk_ortho.config import ConfigError


def main(arguments: list[str] | None = None, *, prog: str = "python -m topk_ortho.train") -> int:
    """Run one command line; the exit code."""
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments, prog=prog)
        return _run(options)
    except ConfigError as error:
        return fail(error)
    except KeyboardInterrupt:
        return fail(
            "interrupted while no step was running; if there is a run folder already, "
            "--resume goes on with it.",
            130,
        )


def _run(options: RunOptions) -> int:
    from topk_ortho.report.summary import finish
    from topk_ortho.training import Interrupted, resume, train
    from topk_ortho.training.finite import NotFiniteError

    try:
        if options.resume is not None:
            result = resume(options.resume, stop_after=options.stop_after)
        else:
            result = train(options.settings, options.out, stop_after=options.stop_after)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    except NotFiniteError as error:
        return fail(error, 1)
    except OSError as error:
        where = error.filename or options.out or "the run folder"
        return fail(
            f"{where} cannot be used ({error.strerror}); "
            "free disk space or check the permissions, then go on with --resume.",
            1,
        )
    print(finish(result["folder"]))
    return 0


class _Callable(types.ModuleType):
    """Keeps `topk_ortho.train(...)` a function also after this module has been imported."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        from topk_ortho.training import train

        return train(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    sys.exit(main())
