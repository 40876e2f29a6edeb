"""`sparsecc::linear_cuda`: the torch operator that launches our kernels, on torch's current stream and on its tensors as they are.

    y = activation(x Wᵀ + bias) + residual, see `kernel`

It is registered by `Library.define` and `impl`, which cost half of the host time that `custom_op` costs. CUDA graphs capture it, and
`torch.compile` leaves it whole. It has no gradients. `linear` is the same past torch's dispatcher, which takes a third of a call's time:
compiled modules call that.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.nn import functional

from sparsecc.codegen.cuda.arch import runs_on, serves, source_for, spelt
from sparsecc.codegen.cuda.driver import Boxes, Kernel, tensor_map
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.plan import Binary, Plan
from sparsecc.errors import InputError, SparseccError, UserError

_ALIGNMENT = 16  # bytes; kernels read as many at once
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda y: y,
    "relu": functional.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda y: functional.gelu(y, approximate="tanh"),
}
_MOST_SHAPES = 1 << 12  # of x whose layouts are kept
_Shape = tuple[
    tuple[int, ...], tuple[int, ...], int, Callable[..., None] | None
]  # of y: sizes and strides; tokens; what launches the kernel
_NO_GRADIENTS = "linear_cuda has no gradients; call the model under torch.no_grad()"
_plans: dict[str, Plan] = {}
_loaded: dict[tuple[str, int], _Loaded] = {}  # by key and device

_library = torch.library.Library("sparsecc", "FRAGMENT")
_library.define("linear_cuda(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, str plan) -> Tensor")


def register(plan: Plan) -> str:
    """Its key, with which the operator can be called from now on, in this process."""
    key = plan.key
    _plans[key] = plan
    return key


def plan_of(key: str) -> Plan:
    """Raises UserError for one that was never registered."""
    try:
        return _plans[key]
    except KeyError:
        raise UserError(f"no plan {key!r} in this process; load the artifact that it belongs to") from None


def prepare(key: str, device: torch.device) -> None:
    """Load a plan's code on a device, as the first call would. A CUDA graph can only be captured afterwards.

    Raises SparseccError where the device cannot run it."""
    _on(key, torch.device("cuda", torch.cuda.current_device()) if device.index is None else device)


def aligned(tensor: Tensor) -> Tensor:
    """As kernels read it: contiguous, at an address that is a multiple of 16."""
    if tensor.is_contiguous() and tensor.data_ptr() % _ALIGNMENT == 0:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


class _Loaded:
    """A plan on a device."""

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self.spec = _linear(plan.key)
        capability = torch.cuda.get_device_capability(device)
        with torch.cuda.device(device):
            torch.cuda.current_stream().synchronize()  # makes the context
            self._limits = [step.tokens for step in plan.steps]
            self._calls = [_call(plan, step.binaries, capability) if serves(step.binaries, capability) else None for step in plan.steps]
            self._expand = _call(plan, plan.expand, capability) if plan.expand else None
        self.plan, self.index, self.count = plan, device.index, torch.cuda.device_count()
        self.dtype, self.depth, self.outputs = getattr(torch, self.spec.dtype), self.spec.depth, self.spec.outputs
        self._shapes: dict[Sequence[int], _Shape] = {}  # of x that were seen

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        shape, place = x.shape, x.data_ptr()
        whole, strides, tokens, call = self._shapes.get(shape) or self._look(shape)
        if x.dtype is not self.dtype:
            raise InputError(f"linear_cuda takes {self.dtype}, x is {x.dtype}")
        if not x.is_contiguous() or place % _ALIGNMENT:
            x = aligned(x)
            place = x.data_ptr()
        if residual is not None:
            residual = self._like_y(residual, shape)
        if bias is not None and (bias.dtype is not self.dtype or bias.get_device() != self.index):
            raise InputError(f"linear_cuda: the bias is {bias.dtype} on {bias.device}, the kernel takes {self.dtype} on {x.device}")
        if call is None and tokens:
            return self._through_dense(x, weight, bias, residual)
        y = _empty(whole, strides, self.dtype)
        if call is not None:
            call(self.index, place, y.data_ptr(), tokens, weight.data_ptr(), bias, residual)
        return y

    def _look(self, shape: Sequence[int]) -> _Shape:
        """What does not change from call to call. Raises InputError for another depth."""
        if shape[-1] != self.depth:
            raise InputError(f"linear_cuda takes {self.depth} inputs, x has shape {tuple(shape)}")
        whole, tokens = (*shape[:-1], self.outputs), math.prod(shape[:-1])
        step = bisect_left(self._limits, tokens)
        call = self._calls[step] if tokens and step < len(self._calls) else None
        if len(self._shapes) >= _MOST_SHAPES:
            self._shapes.clear()
        strides = tuple(math.prod(whole[place + 1 :]) for place in range(len(whole)))
        found = self._shapes[shape] = (whole, strides, tokens, call)
        return found

    def dense(self, weight: Tensor) -> Tensor:
        """The weight [rows, depth], unpacked by our kernel."""
        if self._expand is None:
            raise SparseccError(f"plan {self.plan.key!r} has no kernel for so many tokens")
        whole = torch.empty((self.spec.rows, self.depth), dtype=self.dtype, device=weight.device)
        self._expand(self.index, 0, whole.data_ptr(), 0, weight.data_ptr(), None, None)
        return whole

    def _like_y(self, residual: Tensor, shape: Sequence[int]) -> Tensor:
        if residual.shape[:-1] != shape[:-1] or residual.shape[-1] != self.outputs or residual.dtype is not self.dtype:
            raise InputError(f"linear_cuda: residual is {residual.dtype} of shape {tuple(residual.shape)}, y is not")
        return residual if residual.is_contiguous() else residual.contiguous()

    def _through_dense(self, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        return epilogue(self.spec, functional.linear(x, self.dense(weight), bias), residual)


def _empty_strided(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(shape, strides, dtype=dtype, device="cuda")


# On the current device. What inductor's code calls takes 1.1 µs, torch.empty 2.5.
_guards: Any = getattr(torch._C, "_dynamo", None)
_empty: Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], Tensor] = getattr(
    getattr(_guards, "guards", None), "_empty_strided_cuda", _empty_strided
)


def epilogue(spec: LinearSpec, y: Tensor, residual: Tensor | None) -> Tensor:
    """What follows the product and the bias, by torch's own operators."""
    activation = _ACTIVATIONS[spec.activation]
    if spec.gated:
        gate, other = y.chunk(2, -1)
        y = activation(gate) * other
    else:
        y = activation(y)
    return y if residual is None else y + residual


def _call(plan: Plan, binaries: Mapping[str, Binary], capability: tuple[int, int]) -> Callable[..., None]:
    """Launches a kernel, its arguments in its own order."""
    binary, cubin = code(plan, binaries, capability)
    maps = dict(binary.geometry.maps)
    kinds = "".join("i" if name == "tokens" else "m" if name in maps else "p" for name in binary.arguments)
    return _bound(Kernel(cubin, binary.name, binary.geometry, kinds), binary.arguments, maps, plan.parts)


def code(plan: Plan, binaries: Mapping[str, Binary], capability: tuple[int, int]) -> tuple[Binary, bytes]:
    """What was built for this device, or is built now of the source for an older one."""
    name = runs_on(binaries, capability)
    if name is not None:
        return binaries[name], binaries[name].cubin
    name, here = source_for(binaries, capability), spelt(capability)
    if name is None:
        raise SparseccError(f"this GPU is {here}, and the kernels of {plan.key!r} are for {', '.join(binaries) or 'no architecture'}")
    from sparsecc.codegen.cuda import nvrtc

    return binaries[name], nvrtc.cubin(binaries[name].source, here)


_PLACES = {"X": 0, "Y": 1, "D": 1, "tokens": 2, "B": 3, "R": 4}  # of arguments in what `_bound` makes of a call


def _bound(kernel: Kernel, arguments: tuple[str, ...], maps: Mapping[str, Boxes], parts: Mapping[str, int]) -> Callable[..., None]:
    """From addresses and numbers, X, Y, tokens, the packed weight, bias and residual, to the kernel's own arguments."""
    mapped = tuple((number, maps[name]) for number, name in enumerate(arguments) if name in maps)
    order = [_PLACES.get(name, 5 + list(parts).index(name) if name in parts else 0) for name in arguments]
    starts, launch, stream_of = tuple(parts.values()), kernel.__call__, torch._C._cuda_getCurrentRawStream

    def call(device: int, x: int, y: int, tokens: int, weight: int, bias: Tensor | None, residual: Tensor | None) -> None:
        b = 0 if bias is None else bias.data_ptr()
        r = 0 if residual is None else residual.data_ptr()
        values = (x, y, tokens, b, r, *[weight + start for start in starts])
        own: list[Any] = [values[place] for place in order]
        for number, boxes in mapped:
            own[number] = tensor_map(own[number], boxes, tokens)
        launch(stream_of(device), *own)

    return call


def _on(key: str, device: torch.device) -> _Loaded:
    ready = _loaded.get((key, device.index))
    if ready is None:
        if torch.cuda.is_current_stream_capturing():
            raise SparseccError("a CUDA graph is captured before the first call; call the model once on this device before")
        ready = _loaded[key, device.index] = _Loaded(plan_of(key), device)
    return ready


def _cuda(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, plan: str) -> Tensor:
    index = x.get_device()
    if weight.get_device() != index or (residual is not None and residual.get_device() != index):
        raise InputError(f"linear_cuda: x is on {x.device}, the weight on {weight.device}")
    loaded = _loaded.get((plan, index)) or _on(plan, x.device)
    if loaded.count > 1 and index != torch.cuda.current_device():
        with torch.cuda.device(index):
            return loaded(x, weight, bias, residual)
    return loaded(x, weight, bias, residual)


def _cuda_above_autograd(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, plan: str) -> Tensor:
    """There are no gradients, so that plain tensors need not go through autograd; what tracers put in their place goes on to them."""
    if x.requires_grad and torch.is_grad_enabled():
        raise InputError(_NO_GRADIENTS)
    plain = type(x) is Tensor and type(weight) in _PLAIN and (residual is None or type(residual) is Tensor)
    if plain and not torch._C._len_torch_dispatch_stack():
        return _cuda(x, weight, bias, residual, plan)
    with torch._C._AutoDispatchBelowAutograd():
        return linear_cuda(x, weight, bias, residual, plan)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, plan: str) -> Tensor:
    """`linear_cuda`, straight to the kernel where nothing else has to see the call: no tracer, no mode, no transform, no subclass."""
    if (
        torch.compiler.is_compiling()
        or type(x) is not Tensor
        or type(weight) not in _PLAIN
        or (residual is not None and type(residual) is not Tensor)
        or not x.is_cuda
        or x.is_neg()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._are_functorch_transforms_active()
    ):
        return linear_cuda(x, weight, bias, residual, plan)
    if x.requires_grad and torch.is_grad_enabled():
        raise InputError(_NO_GRADIENTS)
    return _cuda(x, weight, bias, residual, plan)


def retarget(graph: Graph, target: Callable[..., Tensor]) -> None:
    """Makes all calls of the operator in a graph calls of `target`, which is `linear` or `linear_cuda`."""
    for node in graph.nodes:
        if node.target in (linear, linear_cuda):
            node.target = target


def calls(graph: Graph) -> list[Node]:
    """Of the operator, either way."""
    return [node for node in graph.nodes if node.target in (linear, linear_cuda)]


def _linear(key: str) -> LinearSpec:
    spec = plan_of(key).spec
    if not isinstance(spec, LinearSpec):
        raise UserError(f"linear_cuda: plan {key!r} is for {spec.name}")
    return spec


def _cpu(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, plan: str) -> Tensor:
    """What it means, for a machine without a GPU: unpacked, in float32."""
    if weight.device != x.device:
        raise InputError(f"linear_cuda: x is on {x.device}, the weight on {weight.device}")
    from sparsecc.codegen.cuda.unpacking import dense

    spec = _linear(plan)
    y = functional.linear(x.float(), dense(spec, weight), None if bias is None else bias.float())
    return epilogue(spec, y, None if residual is None else residual.float()).to(x.dtype)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, plan: str) -> Tensor:
    spec = _linear(plan)
    torch._check(x.shape[-1] == spec.depth, lambda: f"linear_cuda takes {spec.depth} inputs, x has shape {tuple(x.shape)}")
    return x.new_empty((*x.shape[:-1], spec.outputs))


_PLAIN = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
_library.impl("linear_cuda", _cuda, "CUDA")
_library.impl("linear_cuda", _cuda_above_autograd, "AutogradCUDA")
_library.impl("linear_cuda", _cpu, "CPU")
torch.library.register_fake("sparsecc::linear_cuda", _fake, lib=_library)
linear_cuda: Any = torch.ops.sparsecc.linear_cuda.default
