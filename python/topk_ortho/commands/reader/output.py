"""The end of a command: what it prints, what it writes, and its exit code."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from topk_ortho.checkpoint.atomic import replace_file
from topk_ortho.config.errors import ConfigError
from topk_ortho.distributed.launcher import is_first
from topk_ortho.machine.interrupt import Interrupted, SignalWatch, kept
from topk_ortho.terminal import printable

PACKAGE = Path(__file__).parents[2]
STOPPED = "stopped; what was finished is kept, and the same command computes the rest."
"""The message where no interrupted part had a more specific one."""


def fail(error: Exception | str, code: int = 2) -> int:
    """Print one sentence to stderr and return the exit code."""
    print(f"error: {printable(str(error))}", file=sys.stderr)
    return code


def say(text: str) -> None:
    """Print text that may hold any character: what would act on a terminal, or cannot be shown, is
    escaped."""
    text = "\n".join(printable(line) for line in text.split("\n"))
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def check_out(path: Path | None, name: str = "out") -> None:
    """Refuse, before the work, an `--out`, or another option, that cannot be written.

    Raises:
        ConfigError: it is a folder, or its folder does not exist.
    """
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise ConfigError(
            f"--{name} {path} was given, but a file in an existing folder was expected; correct it."
        )


def write_json(path: Path | None, record: dict[str, Any]) -> None:
    """Write a JSON file as a whole or not at all; nothing where there is no path."""
    if path is not None:
        replace_file(path, (json.dumps(record, indent=2) + "\n").encode())


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show this package's warnings as one line, without the place in its source."""
    before = warnings.formatwarning

    def shown(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if Path(filename).is_relative_to(PACKAGE):
            return f"warning: {printable(str(message))}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = shown
    try:
        yield
    finally:
        warnings.formatwarning = before


def guarded(command: Callable[[], int]) -> int:
    """Returns the exit code of a command; what stops it becomes one sentence."""
    try:
        with SignalWatch(at_once=True), kept(STOPPED), plain_warnings():
            code = command()
            sys.stdout.flush()  # errors of writing are raised here, and not after the last line
        return code
    except ConfigError as error:
        return fail(error)
    except Interrupted as stop:
        with suppress(OSError):  # the terminal may be gone, as after a SIGHUP
            if is_first():
                print(printable(str(stop)), file=sys.stderr, flush=True)
        return stop.exit_code
    except BrokenPipeError:
        # the reader of a pipe has closed it; the flush at exit must not fail once more
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

    from topk_ortho.distributed.agreement import DisagreementError
    from topk_ortho.distributed.world import PeerError
    from topk_ortho.training.finite import NotFiniteError

    if isinstance(error, (NotFiniteError, PeerError, DisagreementError)):
        return fail(error, 1)
    if isinstance(error, (MemoryError, OutOfMemoryError)) or "allocate memory" in str(error):
        return fail(
            f"out of memory ({str(error).splitlines()[0]}); lower --sae.d-sae, --batch-size or "
            "--pairs.memory-budget.",
            1,
        )
    raise error
