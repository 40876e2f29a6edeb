"""`sparsecc::attention_cuda`: the torch operator that launches `decode_attention`, attention of few queries to many keys.

    y = softmax(scale · q kᵀ, over the keys that the mask lets be seen) v

q and y [batch, heads, queries, head_dim], k and v [batch, kv_heads, keys, head_dim], mask bool, [queries, keys] or what broadcasts to it. A
query that sees nothing gives zeros. Registered as `operator.linear_cuda` is, and as that without gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.codegen.cuda import operator
from sparsecc.codegen.cuda.arch import serves
from sparsecc.codegen.cuda.driver import Kernel
from sparsecc.codegen.cuda.kernel import AttentionSpec
from sparsecc.codegen.cuda.plan import Plan
from sparsecc.errors import InputError, SparseccError

_loaded: dict[tuple[str, int], _Loaded] = {}  # by key and device

_library = torch.library.Library("sparsecc", "FRAGMENT")
_library.define("attention_cuda(Tensor q, Tensor k, Tensor v, Tensor? mask, str plan) -> Tensor")


def prepare(key: str, device: torch.device) -> None:
    """Load a plan's code on a device, see `operator.prepare`."""
    _on(key, device.index if device.index is not None else torch.cuda.current_device())


class _Loaded:
    """A plan on a device."""

    def __init__(self, plan: Plan, index: int) -> None:
        assert isinstance(plan.spec, AttentionSpec)
        self.spec, self.dtype = plan.spec, getattr(torch, plan.spec.dtype)
        [step], capability = plan.steps, torch.cuda.get_device_capability(index)
        self._kernel = None
        if serves(step.binaries, capability):
            binary, cubin = operator.code(plan, step.binaries, capability)
            with torch.cuda.device(index):
                torch.cuda.current_stream().synchronize()  # makes the context
                self._kernel = Kernel(cubin, binary.name, binary.geometry, "p" * len(binary.arguments))
            self._arguments = binary.arguments

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        seen = _checked(self.spec, q, k, v, mask)
        if self._kernel is None:
            return _through_torch(self.spec, q, k, v, seen)
        q, k, v = (operator.aligned(tensor) for tensor in (q, k, v))
        y = torch.empty_like(q)
        seen = None if seen is None else seen.contiguous()
        places = {"Q": q, "K": k, "V": v, "M": seen, "Y": y}
        stream = torch._C._cuda_getCurrentRawStream(q.get_device())
        self._kernel(stream, *[tensor.data_ptr() for name in self._arguments if (tensor := places[name]) is not None])
        return y


def _checked(spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor | None:
    """The mask as [queries, keys]. Raises InputError for shapes, types and devices that are not the plan's."""
    queries, keys = (spec.batch, spec.heads, spec.queries, spec.head_dim), (spec.batch, spec.kv_heads, spec.keys, spec.head_dim)
    for name, tensor, shape in (("q", q, queries), ("k", k, keys), ("v", v, keys)):
        if tensor.shape != shape or str(tensor.dtype) != f"torch.{spec.dtype}" or tensor.device != q.device:
            here = f"{name} is {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            raise InputError(f"attention_cuda takes {spec.dtype} {shape} on {q.device}, {here}")
    if (mask is not None) != spec.masked:
        raise InputError(f"attention_cuda: this plan is for attention {'with' if spec.masked else 'without'} a mask")
    if mask is None:
        return None
    if mask.dtype != torch.bool or mask.device != q.device or any(size != 1 for size in mask.shape[:-2]):
        raise InputError(
            f"attention_cuda takes a mask bool [queries, keys] on {q.device}, it is {mask.dtype} {tuple(mask.shape)} on {mask.device}"
        )
    return mask.reshape(mask.shape[-2:]).expand(spec.queries, spec.keys)


def _through_torch(spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    y = functional.scaled_dot_product_attention(q, k, v, mask, scale=spec.scale, enable_gqa=spec.heads != spec.kv_heads)
    return y if mask is None else y.where(mask.any(-1, keepdim=True), 0)


def _on(key: str, index: int) -> _Loaded:
    ready = _loaded.get((key, index))
    if ready is None:
        if torch.cuda.is_current_stream_capturing():
            raise SparseccError("a CUDA graph is captured before the first call; call the model once on this device before")
        ready = _loaded[key, index] = _Loaded(operator.plan_of(key), index)
    return ready


def _cuda(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, plan: str) -> Tensor:
    with torch.cuda.device(q.get_device()):
        return _on(plan, q.get_device())(q, k, v, mask)


def _cpu(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, plan: str) -> Tensor:
    """What it means, for a machine without a GPU: in float32."""
    spec = operator.plan_of(plan).spec
    assert isinstance(spec, AttentionSpec)
    seen = _checked(spec, q, k, v, mask)
    return _through_torch(spec, q.float(), k.float(), v.float(), seen).to(q.dtype)


def _fake(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, plan: str) -> Tensor:
    return q.new_empty(q.shape)


_library.impl("attention_cuda", _cuda, "CUDA")
_library.impl("attention_cuda", _cpu, "CPU")
torch.library.register_fake("sparsecc::attention_cuda", _fake, lib=_library)
attention_cuda: Any = torch.ops.sparsecc.attention_cuda.default
