"""Tensors that say they are on a CUDA device, compute on the CPU, and are strict about it.

Python code that asks for `device` sees "cuda", and every operation goes through a check:

* an operation that mixes such a tensor with a plain CPU tensor of more than one element is an
  error, as it is on a GPU (copies and CPU index tensors excepted, which CUDA allows and pays for);
* what makes the host wait for the device (reading a scalar, a size that depends on data, a copy to
  the host) is counted in the phase of the step that did it (`topk_ortho.machine.spans`);
* numpy cannot see such a tensor.

So the real control flow runs with real numbers, and what a fake tensor would stop at (`nonzero`,
`.item()`) is listed in place of being refused. What this cannot show: kernels, streams, memory of
the device, bfloat16 under autocast, and how fast anything is.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

import topk_ortho

PACKAGE = str(Path(topk_ortho.__file__).parent) + os.sep

CUDA = torch.device("cuda", 0)
# Operations whose CUDA kernels hand a number to the host.
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive", "_unique2", "bincount",
    "unique_dim", "equal", "is_nonzero",
}  # fmt: skip
MAY_MIX = {"_to_copy", "copy_", "index", "index_put", "index_put_", "_index_put_impl_"}
FACTORIES = {
    torch.zeros, torch.ones, torch.empty, torch.full, torch.arange, torch.tensor, torch.rand,
    torch.randn, torch.randint, torch.randperm, torch.linspace, torch.eye,
}  # fmt: skip


class MixedDevicesError(AssertionError):
    """An operation that a GPU would refuse."""


waits: Counter[tuple[str, str]] = Counter()
"""`(phase, operation)` of everything that made the host wait; `other` is in no phase."""


class Phases:
    """The spans that are open, the innermost last."""

    def __init__(self) -> None:
        self.open: list[str] = ["other"]

    def entered(self, phase: str) -> None:
        if threading.current_thread() is threading.main_thread():
            self.open.append(phase)

    def left(self, phase: str) -> None:
        if threading.current_thread() is threading.main_thread():
            assert self.open.pop() == phase


phases = Phases()


def _where() -> str:
    """File and function of the innermost frame of the package."""
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            return f"{'/'.join(Path(code.co_filename).parts[-2:])}:{code.co_name}"
        frame = frame.f_back
    return "elsewhere"


def _wait(operation: str) -> None:
    waits[phases.open[-1], operation] += 1


class Pretend(torch.Tensor):
    """A CPU tensor (`held`) that says it is on a GPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor, requires_grad: bool = False) -> Pretend:
        self = torch.Tensor._make_wrapper_subclass(
            cls, real.shape, strides=real.stride() if real.layout == torch.strided else None,
            storage_offset=real.storage_offset() if real.layout == torch.strided else None,
            dtype=real.dtype, requires_grad=requires_grad, device="cpu",
        )  # fmt: skip
        self.held = real
        return self

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Pretend({self.held!r})"

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def numpy(self, **_: Any) -> Any:  # type: ignore[override]
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def tolist(self) -> Any:
        _wait("tolist")
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.split("::")[1]
        flat, _ = tree_flatten((args, kwargs))
        tensors = [t for t in flat if isinstance(t, Tensor)]
        host = [t for t in tensors if not isinstance(t, Pretend) and t.dim()]
        if host and name not in MAY_MIX:
            raise MixedDevicesError(
                f"{name} at {_where()}: a tensor of shape {list(host[0].shape)} is on the CPU, the "
                "others are on cuda:0"
            )
        to_host = name == "_to_copy" and torch.device(kwargs.get("device") or CUDA).type == "cpu"
        if name in WAITING or to_host or _masked(name, args) or _sized_by_data(name, kwargs):
            _wait("copy to the host" if to_host else name)
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        real_args, real_kwargs = tree_map(_unwrap, (args, kwargs))
        out = func(*real_args, **real_kwargs)
        if to_host:
            return out.clone() if any(out is r for r in tree_flatten(real_args)[0]) else out
        return _wrap_like(func, args, kwargs, out)


def _masked(name: str, args: Any) -> bool:
    """Indexing with a mask counts its elements first."""
    if name not in {"index", "index_put", "index_put_", "_index_put_impl_"}:
        return False
    return any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])


def _sized_by_data(name: str, kwargs: dict[str, Any]) -> bool:
    return name == "repeat_interleave" and kwargs.get("output_size") is None


def _unwrap(value: Any) -> Any:
    return value.held if isinstance(value, Pretend) else value


def _wrap_like(func: Any, args: Any, kwargs: Any, out: Any) -> Any:
    """Results on the pretended device; an argument that was changed in place is itself again."""
    known = {id(t.held): t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Pretend)}

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        same = known.get(id(value))
        return Pretend(value) if same is None else same

    return tree_map(wrap, out)


class Device(TorchFunctionMode):
    """Factories and copies that name a CUDA device give pretended tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in FACTORIES and _is_cuda(kwargs.get("device")):
            kwargs["device"] = None
            requires_grad = kwargs.pop("requires_grad", False)
            with torch._C.DisableTorchFunctionSubclass():
                return Pretend(func(*args, **kwargs)).requires_grad_(requires_grad)
        if func is torch.sparse_csr_tensor and any(isinstance(a, Pretend) for a in args):
            host = [a for a in args[:3] if not isinstance(a, Pretend)]
            if host:
                raise MixedDevicesError(f"CSR parts of a matrix on the CPU at {_where()}")
            with torch._C.DisableTorchFunctionSubclass():
                return Pretend(func(*(_unwrap(a) for a in args), **kwargs))
        towards = (*args[1:], kwargs.get("device"))
        if (
            func is torch.Tensor.to
            and not isinstance(args[0], Pretend)
            and any(_is_cuda(a) for a in towards)
        ):
            return pretend(args[0])
        if func is torch.Tensor.to and isinstance(args[0], Pretend):
            if any(_is_cpu(a) for a in towards):
                # torch's own grouping of gradients by device sees what C++ sees, the CPU.
                if f"{os.sep}torch{os.sep}" in sys._getframe(1).f_code.co_filename:
                    return args[0]
                _wait("copy to the host")
                with torch._C.DisableTorchFunctionSubclass():
                    return func(args[0].held.detach().clone(), *args[1:], **kwargs)
            rest = tuple(a for a in args[1:] if not _is_cuda(a))
            if len(rest) < len(args) - 1 and not rest and set(kwargs) <= {"non_blocking"}:
                return args[0]
            args = (args[0], *rest)
        if func is torch.Tensor.cpu and isinstance(args[0], Pretend):
            _wait("copy to the host")
            return args[0].held.detach().clone()
        return func(*args, **kwargs)


def _is_cuda(device: Any) -> bool:
    if isinstance(device, str):
        device = torch.device(device)
    return isinstance(device, torch.device) and device.type == "cuda"


def _is_cpu(device: Any) -> bool:
    return device == "cpu" or (isinstance(device, torch.device) and device.type == "cpu")


def pretend(tensor: Tensor) -> Pretend:
    """The tensor's values on the pretended device."""
    return Pretend(tensor.detach().clone())


def move(module: torch.nn.Module, device: Any) -> torch.nn.Module:
    """`module.to(device)`, which torch does in C++ where nothing can be pretended."""
    if _is_cuda(device):
        for part in module.modules():
            for name, parameter in list(part._parameters.items()):
                if parameter is not None:
                    part._parameters[name] = torch.nn.Parameter(pretend(parameter))
            for name, buffer in list(part._buffers.items()):
                if buffer is not None:
                    part._buffers[name] = pretend(buffer)
    return module
