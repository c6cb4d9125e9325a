"""`python -m topk_ortho.train`: parse, train, print."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any

# A spinning second thread takes the core that the first one needs; has to be set before torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler's own log; before torch as well

from topk_ortho.commands.reader import fail, parse
from topk_ortho.config import ConfigError
from topk_ortho.machine.interrupt import Interrupted, SignalWatch, kept
from topk_ortho.terminal import printable

STOPPED = "stopped; what was finished is kept, and the same command computes the rest."
"""Where nothing that was interrupted knew more."""


def main(arguments: list[str] | None = None, *, prog: str = "python -m topk_ortho.train") -> int:
    """Run one command line; the exit code."""
    return guarded(lambda: _run(sys.argv[1:] if arguments is None else arguments, prog))


def guarded(command: Callable[[], int]) -> int:
    """Returns the exit code of a command; what stops it becomes one sentence."""
    try:
        with SignalWatch(at_once=True), kept(STOPPED):
            code = command()
            sys.stdout.flush()  # what cannot be written is met here, and not after the last line
        return code
    except ConfigError as error:
        return fail(error)
    except Interrupted as stop:
        with suppress(OSError):  # the terminal may be gone, which is what a SIGHUP says
            print(printable(str(stop)), file=sys.stderr, flush=True)
        return stop.exit_code
    except BrokenPipeError:
        # whoever read the output has seen enough; the flush at exit must not fail once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:
        return fail(
            f"{error.filename or 'the run folder'} cannot be used ({error.strerror}); "
            "free disk space or check the permissions, then resume with --resume.",
            1,
        )
    except (ArithmeticError, MemoryError, RuntimeError) as error:
        return _stopped(error)


def _stopped(error: Exception) -> int:
    """Returns the exit code of a run that met a NaN or ran out of memory."""
    from torch import OutOfMemoryError

    from topk_ortho.training.finite import NotFiniteError

    if isinstance(error, NotFiniteError):
        return fail(error, 1)
    if isinstance(error, (MemoryError, OutOfMemoryError)) or "allocate memory" in str(error):
        return fail(
            f"out of memory ({str(error).splitlines()[0]}); lower --sae.d-sae, --batch-size or "
            "--pairs.memory-budget.",
            1,
        )
    raise error


def _run(arguments: list[str], prog: str) -> int:
    options = parse(arguments, prog=prog)
    from topk_ortho.machine.hardware import keep_freed_memory
    from topk_ortho.report.summary import finish
    from topk_ortho.training import resume, train

    keep_freed_memory()
    how: dict[str, Any] = {"stop_after": options.stop_after, "profile": options.profile}
    if options.resume is not None:
        result = resume(options.resume, **how)
    else:
        result = train(options.settings, options.out, **how)
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
