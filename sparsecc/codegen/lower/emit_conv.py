"""Convolutions as calls of the matrix kernel that the chooser picks, over planes that are copied out of images and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sparsecc.codegen.kernels import plane_copy
from sparsecc.codegen.kernels.base import Epilogue, MatmulSpec
from sparsecc.codegen.kernels.plane_copy import PlaneCopySpec
from sparsecc.codegen.lower.convolve import Plane, plane_of
from sparsecc.codegen.lower.forms import Forms
from sparsecc.codegen.lower.layout import Value, layout_of
from sparsecc.codegen.lower.program import Expr, Layer, Node, Var, shape
from sparsecc.codegen.target import Target
from sparsecc.codegen.tvm_api import relax

Matmul = Callable[[MatmulSpec, Layer, Expr, Expr | None], Var]  # emits the kernel that is chosen for a layer


def emit_conv2d(forms: Forms, target: Target, matmul: Matmul, node: Node, layer: Layer, epilogue: Epilogue) -> Value:
    assert layer.geometry is not None
    batch, channels, height, width = shape(layer.x)
    out_shape = shape(node.var)
    if out_shape[2:] == (1, 1) and (height, width) == (1, 1):
        return _conv_of_one_pixel(forms, target, matmul, node, layer, epilogue)
    plane = plane_of(layer.geometry, (height, width), out_shape[2:], target.lanes)
    x = _plane(forms, target, layer.x, plane)
    spec = MatmulSpec(layer.rows, channels, batch, plane.positions, plane.size, plane.pitch, plane.taps, epilogue)
    residual = None
    if layer.residual is not None:  # only taken in where plane.cols == plane.width
        residual = planes(forms, target, forms.natural(layer.residual), plane.pitch)
    return Value(out_shape, natural=_crop(forms, target, matmul(spec, layer, x, residual), plane, out_shape))


def _conv_of_one_pixel(forms: Forms, target: Target, matmul: Matmul, node: Node, layer: Layer, epilogue: Epilogue) -> Value:
    """Of 1×1 images, a convolution is a linear layer over the batch (squeeze-and-excitation) by the tap that meets the pixel."""
    assert layer.geometry is not None
    (kh, kw), (dh, dw), (top, left) = layer.geometry.kernel, layer.geometry.dilation, layer.geometry.padding[:2]
    batch, channels = shape(layer.x)[:2]
    met = (top % dh, left % dw) == (0, 0) and top // dh < kh and left // dw < kw
    taps = layer.matrix.reshape(layer.rows, kh, kw, channels)
    matrix = taps[:, top // dh, left // dw] if met else np.zeros((layer.rows, channels), np.float32)
    layout = layout_of((batch, channels), target.lanes)
    x = forms.op(relax.op.reshape(forms.natural(layer.x), [batch, channels]))
    residual = None if layer.residual is None else forms.tile(forms.natural(layer.residual), layout, len(matrix))
    spec = MatmulSpec.linear(len(matrix), channels, layout.tiles, layout.tile, epilogue)
    y = matmul(spec, replace(layer, weight=matrix, geometry=None), forms.tile(x, layout, channels), residual)
    flat = Value((batch, len(matrix)), tiled=y, layout=layout)
    return Value(shape(node.var), natural=forms.op(relax.op.reshape(forms.untile(flat), list(shape(node.var)))))


def _plane(forms: Forms, target: Target, x: Var, plane: Plane) -> Expr:
    """[batch, channels, height, width] → [batch, channels, plane.size], padded, with the phases of a stride one behind the other."""
    batch, channels, height, width = shape(x)
    (top, left, _, _), (skip_y, skip_x) = plane.padding, plane.skip
    if (plane.skip, plane.phases, top, left) == ((1, 1), (1, 1), 0, 0) and (plane.rows, plane.cols) == (height, width):
        return planes(forms, target, forms.natural(x), plane.size)
    source, (of_batch, of_channel, of_row, of_col) = _where_it_lies(forms, x)
    spec = PlaneCopySpec(
        *(batch, channels, -(-height // skip_y), -(-width // skip_x)),
        (of_batch, of_channel, of_row * skip_y, of_col * skip_x),
        math.prod(shape(x)),
        *(plane.rows, plane.cols, plane.size, top, left, plane.phases),
    )
    return _copied(forms, target, source, spec)


def _where_it_lies(forms: Forms, x: Var) -> tuple[Expr, tuple[int, int, int, int]]:
    """What holds the images, and its strides for batch, channel, row and column: what was only transposed is read as it was."""
    node = forms.program.node(x)
    if node is not None and node.op == "permute_dims" and [int(a) for a in node.attrs.axes or ()] == [0, 3, 1, 2]:
        _, height, width, channels = shape(node.args[0])
        return forms.natural(node.args[0]), (height * width * channels, 1, width * channels, channels)
    _, channels, height, width = shape(x)
    return forms.natural(x), (channels * height * width, height * width, width, 1)


def planes(forms: Forms, target: Target, x: Expr, size: int) -> Expr:
    """[batch, channels, height, width] → [batch, channels, size], with room at the end."""
    batch, channels, height, width = shape(x)
    pixels = height * width
    if size == pixels:
        return forms.op(relax.op.reshape(x, [batch, channels, pixels]))
    strides = (channels * pixels, pixels, pixels, 1)
    return _copied(forms, target, x, PlaneCopySpec(batch, channels, 1, pixels, strides, batch * channels * pixels, 1, pixels, size))


def _crop(forms: Forms, target: Target, y: Expr, plane: Plane, out: tuple[int, ...]) -> Expr:
    """[batch, rows, plane.pitch] → [batch, rows, height, width]."""
    batch, rows, height, width = out
    if (plane.pitch, plane.cols) != (height * width, width):
        strides = (rows * plane.pitch, plane.pitch, plane.cols, 1)
        y = _copied(
            forms, target, y, PlaneCopySpec(batch, rows, height, width, strides, batch * rows * plane.pitch, height, width, height * width)
        )
    return forms.op(relax.op.reshape(y, list(out)))


def _copied(forms: Forms, target: Target, x: Expr, spec: PlaneCopySpec) -> Expr:
    kernel = forms.kernel(spec, lambda: plane_copy.build(spec, target))
    return forms.call(kernel, [forms.op(relax.op.reshape(x, [spec.x_size]))], spec.y_shape)
