"""Adam on the parameters as they are laid out in memory.

The fused kernel copies what is not contiguous, and the encoder of a sparse step lies transposed: it
is handed over as its transpose, which shares the memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from topk_ortho.machine.forecast import Component, Shapes, since


class Adam:
    """`torch.optim.Adam` by parameter name.

    Args:
        parameters: `(name, parameter)`, contiguous or with a contiguous transpose.
        betas: Adam's β1 and β2.
    """

    def __init__(
        self, parameters: Iterable[tuple[str, nn.Parameter]], *, betas: tuple[float, float]
    ):
        self._parameters = dict(parameters)
        self._rows = {
            name: p if p.is_contiguous() else nn.Parameter(p.detach().T)
            for name, p in self._parameters.items()
        }
        self._adam = torch.optim.Adam(self._rows.values(), betas=betas, fused=True)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None
        for rows in self._rows.values():
            rows.grad = None

    def skip_where(self, failed: Tensor) -> None:
        """Make the next step move nothing where `failed`, a float32 scalar on its device, is 1."""
        self._adam.found_inf = failed  # type: ignore[attr-defined]

    def step(self, lr: float) -> None:
        """Move every parameter that has a gradient."""
        for group in self._adam.param_groups:
            group["lr"] = lr
        for name, parameter in self._parameters.items():
            rows = self._rows[name]
            if rows is not parameter:
                rows.grad = None if parameter.grad is None else parameter.grad.T
        self._adam.step()

    def tensors(self) -> dict[str, Tensor]:
        """Moments and step counts as `name.key`, in the layout of the parameters."""
        return {
            f"{name}.{key}": value
            for name, rows in self._rows.items()
            for key, value in self._adam.state.get(rows, {}).items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore stored moments, as `tensors` gave them.

        Raises:
            ValueError: moments of other parameters; the fused kernel would read beyond them.
        """
        for name, rows in self._rows.items():
            prefix = f"{name}."
            stored = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if stored:
                expected = {"step": [], "exp_avg": [*rows.shape], "exp_avg_sq": [*rows.shape]}
                given = {k: [*v.shape] for k, v in stored.items()}
                if given != expected or any(v.dtype != rows.dtype for v in stored.values()):
                    raise ValueError(f"moments of {name} have shapes {given}, expected {expected}")
                self._adam.state[rows] = {k: v.to(rows.device) for k, v in stored.items()}


def memory(s: Shapes) -> Iterator[Component]:
    """Yields gradients, which stay until the next step, and Adam's moments."""
    size, later = "--sae.d-sae", since("refilling the buffer")
    yield Component("gradients", s.parameters, later, size)
    yield Component("Adam's moments", 2 * s.parameters, later, size)
    yield Component("gradient along the decoder", s.matrix, ("optimiser",), size)
