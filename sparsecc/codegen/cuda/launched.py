"""A plan of one kernel for fixed shapes, on a device: what the operators for attention and norms launch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from sparsecc.codegen.cuda import operator
from sparsecc.codegen.cuda.arch import serves
from sparsecc.codegen.cuda.driver import Kernel, tensor_map
from sparsecc.errors import InputError, SparseccError

Spec = TypeVar("Spec")
_library = torch.library.Library("sparsecc", "FRAGMENT")
_ready: dict[tuple[str, int], Launched] = {}  # by key and device


class Launched:
    """there: whether the plan has code for the device."""

    def __init__(self, key: str, device: torch.device) -> None:
        plan = operator.plan_of(key)
        [step], capability = plan.steps, torch.cuda.get_device_capability(device)
        self.there = serves(step.binaries, capability)
        if not self.there:
            return
        binary, cubin = operator.code(plan, step.binaries, capability)
        with torch.cuda.device(device):
            torch.cuda.current_stream().synchronize()  # makes the context
            self._maps = dict(binary.geometry.maps)
            kinds = "".join("m" if name in self._maps else "p" for name in binary.arguments)
            self._kernel = Kernel(cubin, binary.name, binary.geometry, kinds)
        self._arguments, self._index = binary.arguments, device.index

    def __call__(self, tensors: Mapping[str, Tensor]) -> None:
        """tensors: by the names of the kernel's arguments, contiguous and aligned, on the device."""
        stream, own = torch._C._cuda_getCurrentRawStream(self._index), []
        for name in self._arguments:
            address = tensors[name].data_ptr()
            own.append(tensor_map(address, self._maps[name]) if name in self._maps else address)
        with torch.cuda.device(self._index):
            self._kernel(stream, *own)


def spec_of(kind: type[Spec], key: str, operator_name: str) -> Spec:
    """Of a plan. Raises InputError for one of another kind, UserError for one that was never registered."""
    spec = operator.plan_of(key).spec
    if not isinstance(spec, kind):
        raise InputError(f"{operator_name}: plan {key!r} is for {spec.name}")
    return spec


def registered(arguments: str, name: str, cuda: Callable[..., Tensor], cpu: Callable[..., Tensor], fake: Callable[..., Tensor]) -> Any:
    """The torch operator `sparsecc::name(arguments) -> Tensor`, without gradients. fake: for tensors that have shapes alone."""
    _library.define(f"{name}({arguments}) -> Tensor")
    _library.impl(name, cuda, "CUDA")
    _library.impl(name, without_gradients(name, lambda: made), "AutogradCUDA")
    _library.impl(name, cpu, "CPU")
    torch.library.register_fake(f"sparsecc::{name}", fake, lib=_library)
    made = getattr(torch.ops.sparsecc, name).default
    return made


def without_gradients(name: str, operator: Callable[[], Any]) -> Callable[..., Tensor]:
    """What stands above an operator's kernels where gradients would be noted: it says that there are none. operator: gives it, once it is
    registered."""

    def above(*arguments: Any) -> Tensor:
        if torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in arguments):
            raise InputError(f"{name} has no gradients; call the model under torch.no_grad()")
        with torch._C._AutoDispatchBelowAutograd():
            return operator()(*arguments)

    return above


def on(key: str, device: torch.device) -> Launched:
    """Loads the code at the first call. Raises SparseccError while a CUDA graph is captured, UserError for a plan that was never
    registered."""
    index = torch.cuda.current_device() if device.index is None else device.index
    ready = _ready.get((key, index))
    if ready is None:
        if torch.cuda.is_current_stream_capturing():
            raise SparseccError("a CUDA graph is captured before the first call; call the model once on this device before")
        ready = _ready[key, index] = Launched(key, torch.device("cuda", index))
    return ready
