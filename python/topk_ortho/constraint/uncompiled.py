"""What `torch.compile` leaves as it is: selection and penalty inside a loop that is compiled.

They keep books in Rust and choose among exact paths by what a batch holds, which a compiler cannot
follow: it would cut them into dozens of graphs and warn of each. So a compiled loop has one cut
there, what surrounds it is compiled, and the constraint is computed as everywhere else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """Returns a function that runs as it is, with its gradients, where a compiled one calls it.

    `torch.compiler.disable` itself imports the compiler, which takes seconds, so it is asked for
    only where there is one.
    """

    @functools.wraps(function)
    def as_it_is(*given: P.args, **how: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*given, **how)
        return function(*given, **how)

    return as_it_is
