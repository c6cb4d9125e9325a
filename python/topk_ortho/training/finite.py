"""A number that is not finite stops the run before the optimiser step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from topk_ortho.machine.transfer import Copy
from topk_ortho.sae import Forward
from topk_ortho.training.folder import RunFolder

if TYPE_CHECKING:
    from topk_ortho.training.state import TrainState


class NotFiniteError(ArithmeticError):
    """A NaN or an infinity; the message names the tensor.

    Attributes:
        batch: `[batch, d_in]`, the activations of the step, for inspection; None where
            they are no longer available.
    """

    def __init__(self, message: str, batch: Tensor | None):
        super().__init__(message)
        self.batch = batch


def check_storable(step: int, tensors: Mapping[str, Tensor], batch: Tensor | None) -> None:
    """Raise if weights or moments of the optimiser, which a checkpoint would keep, are not finite.

    Raises:
        NotFiniteError: it names the first tensor at fault.
    """
    for name, tensor in tensors.items():
        if name.startswith(("sae.", "adam.")) and not bool(torch.isfinite(tensor).all()):
            raise NotFiniteError(
                f"step {step}: {name} is not finite after the step, so no checkpoint was written "
                "and the previous one stays the last; start again with a lower --lr.",
                batch,
            )


def check_finite(
    state: TrainState, x: Tensor, out: Forward, value: Tensor, *, target: Tensor | None = None
) -> None:
    """Raise if `value`, which all tensors of the step go into, is not finite.

    Raises:
        NotFiniteError: it names the first tensor at fault.
    """
    if not bool(torch.isfinite(value)):
        raise _error(state, state.step, x, out, target)


@dataclass(frozen=True)
class Unread:
    """A step on a GPU whose outcome the host has not read yet.

    Attributes:
        step: its number.
        outcome: 1 where a number of it was not finite, and nothing was moved; else 0.
        x, target, out: what it worked on.
    """

    step: int
    outcome: Copy
    x: Tensor
    target: Tensor | None
    out: Forward


def check_later(
    state: TrainState, x: Tensor, out: Forward, value: Tensor, *, target: Tensor | None = None
) -> Tensor:
    """Begin to read whether `value` is finite; the next step, or a checkpoint, looks at it.

    Returns:
        A float32 scalar, 1 where it is not, for the optimiser, which then moves nothing.
    """
    failed = (~torch.isfinite(value)).float()
    copy = state.transfer.start(failed)
    state.unread = Unread(state.step, copy, x.detach(), target, out)
    return failed


def check_unread(state: TrainState) -> None:
    """Raise if a number of the step before was not finite; waits for that step alone.

    Raises:
        NotFiniteError: it names the first tensor at fault.
    """
    unread, state.unread = state.unread, None
    if unread is not None and bool(unread.outcome.result()[0]):
        raise _error(state, unread.step, unread.x, unread.out, unread.target)


def _error(
    state: TrainState, step: int, x: Tensor, out: Forward, target: Tensor | None
) -> NotFiniteError:
    """Returns the error of a step in which a number is not finite; it names the tensor."""
    tensors = {"x (the activations)": x}
    tensors |= {} if target is None else {"target (what is reconstructed)": target}
    for name, parameter in state.sae.named_parameters():
        tensors[name] = parameter
    tensors |= {"pre (encoder output)": out.pre, "acts": out.code, "x_hat": out.x_hat[-1]}
    for name, parameter in state.sae.named_parameters():
        if parameter.grad is not None:
            tensors[f"the gradient of {name}"] = parameter.grad
    culprit = next(
        (name for name, t in tensors.items() if not bool(torch.isfinite(t).all())),
        "the loss",
    )
    return NotFiniteError(
        f"step {step}: {culprit} is not finite, but every number of a step has to be; "
        "nothing was changed by this step. Lower --lr, or look at the activations.",
        x.detach(),
    )


def set_aside(error: NotFiniteError, state: TrainState, folder: RunFolder) -> None:
    """Write the batch of a step that failed, and say where its largest row comes from."""
    from safetensors.torch import save

    if error.batch is None:
        return
    sizes = error.batch.abs().amax(1).nan_to_num(nan=torch.inf)
    row = int(sizes.argmax())
    where = state.buffer.origin(row)
    error.args = (f"{error} The largest activation, {float(sizes[row]):.3g}, is {where}.",)
    said = {"step": str(state.step), "error": str(error)}
    try:
        data = save({"x": error.batch.cpu().contiguous()}, metadata=said)
        folder.write_bytes("bad_batch.safetensors", data)
    except OSError as failed:  # what stopped the run must not be lost behind a full disk
        error.args = (f"{error} The batch could not be written ({failed.strerror}).",)
