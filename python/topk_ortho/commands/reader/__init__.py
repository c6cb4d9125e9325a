"""The command line: arguments in, options out, and how a command ends. Imports no torch."""

from topk_ortho.commands.reader.arguments import Given, build, read
from topk_ortho.commands.reader.training import Asked, RunOptions, Training, parse, settings_of

__all__ = [
    "Asked",
    "Given",
    "RunOptions",
    "Training",
    "build",
    "parse",
    "read",
    "settings_of",
]
