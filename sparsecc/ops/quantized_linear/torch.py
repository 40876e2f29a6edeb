"""quantized_linear: y[..., rows] = q(x)[..., cols] Wᵀ + b, with W, and what x is rounded to, in fewer bits (see `sparsecc.precisions`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.ops.base import SiteOp, TorchCall
from sparsecc.precisions import scheme_from_key
from sparsecc.precisions.base import Quantized, Scheme


@dataclass(frozen=True)
class QuantizedLinear(SiteOp):
    """Stands in the place of a Linear site."""

    parameter: ClassVar[str] = "scheme"

    stored: Quantized = field(repr=False)

    @staticmethod
    def storage(key: str) -> Scheme:
        return scheme_from_key(key)

    def torch_call(self, name: str) -> TorchCall:
        stored = self.stored
        return TorchCall(torch.ops.sparsecc.quantized_linear.default, (stored.scheme.key, stored.rows, stored.cols, name))

    def reference(self, x: Tensor) -> Tensor:
        return reference(x, self.stored, self.bias)


def reference(x: Tensor, weight: Quantized, bias: Tensor | None = None) -> Tensor:
    """What quantized_linear means: the dense layer with rounded inputs and the dequantized weight."""
    rounded = weight.scheme.precision.round_inputs(x, weight.scales)
    return functional.linear(rounded, weight.dense().to(x.dtype), bias)


@torch.library.custom_op(
    "sparsecc::quantized_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor[] weight, Tensor? bias, str scheme, int rows, int cols, str name) -> Tensor",
)
def quantized_linear(x: Tensor, weight: Sequence[Tensor], bias: Tensor | None, scheme: str, rows: int, cols: int, name: str) -> Tensor:
    """weight: the tensors of Quantized.tensors in their order.  scheme: Scheme.key.  name: the site's, to find a kernel by."""
    return reference(x, scheme_from_key(scheme).hold(rows, cols, weight), bias).contiguous()


@quantized_linear.register_fake
def _fake(x: Tensor, weight: Sequence[Tensor], bias: Tensor | None, scheme: str, rows: int, cols: int, name: str) -> Tensor:
    torch._check(x.shape[-1] == cols, lambda: f"layer '{name}' takes {cols} inputs, x has shape {tuple(x.shape)}")
    return x.new_empty(*x.shape[:-1], rows)


@torch.library.custom_op(
    "sparsecc::dequantize", mutates_args=(), schema="(Tensor[] weight, str scheme, SymInt rows, SymInt cols) -> Tensor"
)
def dequantize(weight: Sequence[Tensor], scheme: str, rows: int, cols: int) -> Tensor:
    """The tensors of a Quantized → its dense matrix, float32 [rows, cols]; opaque to tracers, since unpacking depends on the data."""
    return scheme_from_key(scheme).hold(rows, cols, weight).dense().clone()


@dequantize.register_fake
def _dequantize_fake(weight: Sequence[Tensor], scheme: str, rows: int, cols: int) -> Tensor:
    return weight[0].new_empty(rows, cols, dtype=torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, weight, bias, ctx.scheme, ctx.rows, ctx.cols, _ = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(*weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Straight through the rounding (Bengio et al. 2013): dX = dY W;  db = Σ dY. The weight is fixed."""
    by_x, _, by_bias, *_ = ctx.needs_input_grad
    weight = ctx.saved_tensors
    grad_x = grad @ torch.ops.sparsecc.dequantize(weight, ctx.scheme, ctx.rows, ctx.cols).to(grad.dtype) if by_x else None
    grad_bias = grad.reshape(-1, ctx.rows).sum(0) if ctx.has_bias and by_bias else None
    return grad_x, [None] * len(weight), grad_bias, None, None, None, None


quantized_linear.register_autograd(_backward, setup_context=_setup_context)
