"""sparse_linear: y[..., rows] = x[..., cols] Wᵀ + b, with W stored in a sparse format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.formats import from_key
from sparsecc.formats.base import Format, Packed
from sparsecc.ops.base import SiteOp, TorchCall
from sparsecc.ops.packed import values_only


@dataclass(frozen=True)
class SparseLinear(SiteOp):
    """Stands in the place of a Linear site."""

    parameter: ClassVar[str] = "format"

    stored: Packed = field(repr=False)

    @staticmethod
    def storage(key: str) -> Format[Any]:
        return from_key(key)

    def torch_call(self, name: str) -> TorchCall:
        packed = self.stored
        return TorchCall(torch.ops.sparsecc.sparse_linear.default, (packed.format.key, packed.rows, packed.cols, name))

    def reference(self, x: Tensor) -> Tensor:
        return reference(x, self.stored, self.bias)


def reference(x: Tensor, packed: Packed, bias: Tensor | None = None) -> Tensor:
    """What sparse_linear means: the dense layer with the unpacked weight."""
    return functional.linear(x, packed.dense(), bias)


@torch.library.custom_op(
    "sparsecc::sparse_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor[] packed, Tensor? bias, str format, int rows, int cols, str name) -> Tensor",
)
def sparse_linear(x: Tensor, packed: Sequence[Tensor], bias: Tensor | None, format: str, rows: int, cols: int, name: str) -> Tensor:
    """packed: the tensors of Packed.tensors in their order.  format: Format.key.  name: the site's, to find a kernel by."""
    return reference(x, from_key(format).hold(rows, cols, packed), bias).contiguous()


@sparse_linear.register_fake
def _fake(x: Tensor, packed: Sequence[Tensor], bias: Tensor | None, format: str, rows: int, cols: int, name: str) -> Tensor:
    torch._check(x.shape[-1] == cols, lambda: f"layer '{name}' takes {cols} inputs, x has shape {tuple(x.shape)}")
    return x.new_empty(*x.shape[:-1], rows)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, packed, bias, ctx.format, ctx.rows, ctx.cols, _ = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, *packed)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """dX = dY W;  dW = dYᵀ X at the stored positions;  db = Σ dY."""
    x, *packed = ctx.saved_tensors
    by_x, by_packed, by_bias, *_ = ctx.needs_input_grad
    grad_rows = grad.reshape(-1, ctx.rows)
    grad_x = grad @ torch.ops.sparsecc.unpack(packed, ctx.format, ctx.rows, ctx.cols) if by_x else None
    grad_values = None
    if any(by_packed):
        grad_values = torch.ops.sparsecc.collect(grad_rows.T @ x.reshape(-1, ctx.cols), packed, ctx.format)
    grad_bias = grad_rows.sum(0) if ctx.has_bias and by_bias else None
    return grad_x, values_only(grad_values, packed), grad_bias, None, None, None, None


sparse_linear.register_autograd(_backward, setup_context=_setup_context)
