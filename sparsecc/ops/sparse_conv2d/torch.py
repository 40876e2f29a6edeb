"""sparse_conv2d: a 2-D convolution (groups = 1) with its weight, as the matrix [out, kh·kw·in], stored in a sparse format."""

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

Pair = tuple[int, int]


@dataclass(frozen=True)
class SparseConv2d(SiteOp):
    """Stands in the place of a Conv2d site with groups = 1.

    kernel: (kh, kw).  padding: zeros added at (top, left, bottom, right).  The packed matrix is [out, kh·kw·in], input
    channels innermost, as `Conv2d.matrix`.
    """

    takes: ClassVar[tuple[str, ...]] = ("Conv1d", "Conv2d")
    parameter: ClassVar[str] = "format"

    stored: Packed = field(repr=False)
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)

    @staticmethod
    def storage(key: str) -> Format[Any]:
        return from_key(key)

    def torch_call(self, name: str) -> TorchCall:
        geometry = (list(self.kernel), list(self.stride), list(self.padding), list(self.dilation))
        return TorchCall(torch.ops.sparsecc.sparse_conv2d.default, (self.stored.format.key, self.stored.rows, *geometry, name))

    def reference(self, x: Tensor) -> Tensor:
        return reference(x, self.stored, self.bias, self.kernel, self.stride, self.padding, self.dilation)


def reference(
    x: Tensor,
    packed: Packed,
    bias: Tensor | None = None,
    kernel: Sequence[int] = (1, 1),
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
) -> Tensor:
    """What sparse_conv2d means: pad, then the dense convolution with the unpacked weight. x: [batch, in, height, width]."""
    return functional.conv2d(_padded(x, padding), weight_of(packed.dense(), kernel), bias, tuple(stride), 0, tuple(dilation))


def weight_of(matrix: Tensor, kernel: Sequence[int]) -> Tensor:
    """[out, kh·kw·in] → [out, in, kh, kw]."""
    return matrix.reshape(matrix.shape[0], kernel[0], kernel[1], -1).permute(0, 3, 1, 2).contiguous()


def matrix_of(weight: Tensor) -> Tensor:
    """[out, in, kh, kw] → [out, kh·kw·in], the inverse of `weight_of`."""
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)


def _padded(x: Tensor, padding: Sequence[int]) -> Tensor:
    top, left, bottom, right = padding
    return functional.pad(x, (left, right, top, bottom))


def _batched(x: Tensor) -> Tensor:
    """[(batch,) channels, height, width] → with batch, and contiguous: mixed layouts make the traced strides differ from the real ones."""
    return x.reshape(-1, *x.shape[-3:]).contiguous()


@torch.library.custom_op(
    "sparsecc::sparse_conv2d",
    mutates_args=(),
    schema="(Tensor x, Tensor[] packed, Tensor? bias, str format, int rows, int[] kernel, int[] stride, int[] padding, "
    "int[] dilation, str name) -> Tensor",
)
def sparse_conv2d(
    x: Tensor,
    packed: Sequence[Tensor],
    bias: Tensor | None,
    format: str,
    rows: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    name: str,
) -> Tensor:
    """packed: the tensors of Packed.tensors in their order.  format: Format.key.  name: the site's, to find a kernel by."""
    cols = kernel[0] * kernel[1] * x.shape[-3]
    return reference(x, from_key(format).hold(rows, cols, packed), bias, kernel, stride, padding, dilation).contiguous()


@sparse_conv2d.register_fake
def _fake(
    x: Tensor,
    packed: Sequence[Tensor],
    bias: Tensor | None,
    format: str,
    rows: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    name: str,
) -> Tensor:
    torch._check(x.dim() in (3, 4), lambda: f"layer '{name}' takes [batch, channels, height, width], x has shape {tuple(x.shape)}")
    height, width = (
        (x.shape[axis - 2] + padding[axis] + padding[axis + 2] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis in (0, 1)
    )
    return x.new_empty(*x.shape[:-3], rows, height, width)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, packed, bias, ctx.format, ctx.rows, ctx.kernel, ctx.stride, ctx.padding, ctx.dilation, _ = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, *packed)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """The dense convolution's gradients; the weight's at the stored positions only."""
    x, *packed = ctx.saved_tensors
    by_x, by_packed, by_bias, *_ = ctx.needs_input_grad
    cols = ctx.kernel[0] * ctx.kernel[1] * x.shape[-3]
    weight = weight_of(torch.ops.sparsecc.unpack(packed, ctx.format, ctx.rows, cols), ctx.kernel)
    padded = _padded(x, ctx.padding)
    needed = [by_x, any(by_packed), ctx.has_bias and by_bias]
    grad_padded, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        _batched(grad), _batched(padded), weight, [ctx.rows], ctx.stride, [0, 0], ctx.dilation, False, [0, 0], 1, needed
    )
    top, left, *_ = ctx.padding
    grad_x = grad_padded[..., top : top + x.shape[-2], left : left + x.shape[-1]].reshape(x.shape) if by_x else None
    grad_values = torch.ops.sparsecc.collect(matrix_of(grad_weight), packed, ctx.format) if any(by_packed) else None
    return grad_x, values_only(grad_values, packed), grad_bias, *[None] * 7


sparse_conv2d.register_autograd(_backward, setup_context=_setup_context)
