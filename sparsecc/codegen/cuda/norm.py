"""`sparsecc::rms_norm_cuda`: the torch operator that launches `rms_norm`.

    y = x · rsqrt(mean(x²) + eps) · weight,    along the last dimension, in float32

x and y [..., depth] with the plan's number of rows, weight [depth]. Registered as `operator.linear_cuda` is, and as that without gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.codegen.cuda import launched, operator
from sparsecc.codegen.cuda.kernel import NormSpec
from sparsecc.errors import InputError


def through_torch(spec: NormSpec, x: Tensor, weight: Tensor) -> Tensor:
    """By torch's own norm."""
    return functional.rms_norm(x, (spec.depth,), weight, spec.eps)


def example(spec: NormSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Some x and weight."""
    dtype = getattr(torch, spec.dtype)
    return torch.randn(spec.rows, spec.depth, device=device, dtype=dtype), torch.randn(spec.depth, device=device, dtype=dtype)


def _checked(plan: str, x: Tensor, weight: Tensor) -> NormSpec:
    """Raises InputError for shapes, types and devices that are not the plan's."""
    spec = launched.spec_of(NormSpec, plan, "rms_norm_cuda")
    dtype, shape = getattr(torch, spec.dtype), (spec.rows, spec.depth)
    for name, tensor, wanted in (("x", x, spec.rows * spec.depth), ("weight", weight, spec.depth)):
        if tensor.dtype is not dtype or tensor.shape[-1:] != (spec.depth,) or tensor.numel() != wanted or tensor.device != x.device:
            here = f"{name} is {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            raise InputError(f"rms_norm_cuda takes {spec.dtype} {shape} and ({spec.depth},) on {x.device}, {here}")
    return spec


def _cuda(x: Tensor, weight: Tensor, plan: str) -> Tensor:
    spec, launch = _checked(plan, x, weight), launched.on(plan, x.device)
    if not launch.there or weight is not operator.aligned(weight):  # a copy would not be there yet when the kernel reads it
        return through_torch(spec, x, weight)
    x = operator.aligned(x)
    y = torch.empty_like(x)
    launch({"X": x, "G": weight, "Y": y})
    return y


def _cpu(x: Tensor, weight: Tensor, plan: str) -> Tensor:
    """What it means, for a machine without a GPU: in float32."""
    return through_torch(_checked(plan, x, weight), x.float(), weight.float()).to(x.dtype)


def _fake(x: Tensor, weight: Tensor, plan: str) -> Tensor:
    return x.new_empty(x.shape)


rms_norm_cuda = launched.registered("Tensor x, Tensor weight, str plan", "rms_norm_cuda", _cuda, _cpu, _fake)
