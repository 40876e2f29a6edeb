"""Linear layers and convolutions as calls of the kernel that the chooser picks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from sparsecc import memory
from sparsecc.codegen.chain import Chain
from sparsecc.codegen.choose import Chooser
from sparsecc.codegen.kernels.base import Epilogue, MatmulSpec
from sparsecc.codegen.lower.convolve import Plane, plane_of
from sparsecc.codegen.lower.forms import Forms
from sparsecc.codegen.lower.layout import Value, layout_of
from sparsecc.codegen.lower.program import Expr, Layer, Node, Var, shape
from sparsecc.codegen.tvm_api import relax
from sparsecc.structures.base import Structured

_LARGE = 1 << 20  # weights of a layer whose preparation leaves holes in the heap that are worth closing


def emit_layer(forms: Forms, chooser: Chooser, node: Node, layer: Layer) -> Value:
    return _linear(forms, chooser, node, layer) if layer.geometry is None else _conv2d(forms, chooser, node, layer)


def _linear(forms: Forms, chooser: Chooser, node: Node, layer: Layer) -> Value:
    value = forms.values[layer.x]
    layout = value.layout if value.tiled is not None and value.heads is None else None
    layout = layout or layout_of(value.shape, chooser.target.lanes)
    spec = MatmulSpec.linear(layer.rows, layer.depth, layout.tiles, layout.tile, _epilogue(layer), layer.dtype)
    residual = None if layer.residual is None else forms.tiled(layer.residual, layout)
    if layer.dtype == "float32":
        x: tuple[Expr, ...] = (forms.tiled(layer.x, layout),)
    else:
        x = forms.narrowed(layer.x, layout, layer.dtype, layer.input_scale, chooser.target)
    return Value(shape(node.var), tiled=_matmul(forms, chooser, spec, layer, x, residual), layout=layout)


def _epilogue(layer: Layer) -> Epilogue:
    return Epilogue(layer.activation, layer.residual is not None, layer.residual_first)


def _matmul(forms: Forms, chooser: Chooser, spec: MatmulSpec, layer: Layer, x: tuple[Expr, ...], residual: Expr | None) -> Var:
    """Calls of the chosen kernels. The last one's output has spec.y_shape.  x: narrow numbers come with their scales."""
    plan = chooser.choose_structured(spec, layer) if isinstance(layer.weight, Structured) else chooser.choose(spec, layer)
    if isinstance(plan, Chain):
        return _chain(forms, chooser, plan, x[0], residual)
    weights = [forms.weight(array) for array in plan.weights]
    if layer.rows * layer.depth > _LARGE:
        memory.trim()
    kernel = forms.kernel((plan.kernel, spec, plan.knobs), lambda: plan.build(spec))
    return forms.call(kernel, plan.arguments(x, weights, residual), spec.y_shape)


def _chain(forms: Forms, chooser: Chooser, chain: Chain, x: Expr, residual: Expr | None) -> Var:
    for step in chain.steps:
        weights = [forms.weight(array) for array in step.weights]
        rest = residual if residual is not None and step is chain.steps[-1] else weights[-1]
        kernel = forms.kernel(step.key, partial(step.build, chooser.target))
        x = forms.call(kernel, [x, *weights, rest], step.spec.y_shape)
    return x


def _conv2d(forms: Forms, chooser: Chooser, node: Node, layer: Layer) -> Value:
    assert layer.geometry is not None
    batch, channels, height, width = shape(layer.x)
    out_shape = shape(node.var)
    if out_shape[2:] == (1, 1) and (height, width) == (1, 1):
        return _conv_of_one_pixel(forms, chooser, node, layer)
    plane = plane_of(layer.geometry, (height, width), out_shape[2:], chooser.target.lanes)
    x = _plane(forms, forms.natural(layer.x), plane, batch, channels)
    rows = layer.rows
    spec = MatmulSpec(rows, channels, batch, plane.positions, plane.size, plane.pitch, plane.taps, _epilogue(layer))
    residual = None
    if layer.residual is not None:  # only taken in where plane.cols == plane.width
        pixels = plane.height * plane.width
        residual = forms.op(relax.op.reshape(forms.natural(layer.residual), [batch, rows, pixels]))
        if plane.pitch != pixels:
            residual = forms.op(relax.op.nn.pad(residual, [0, 0, 0, 0, 0, plane.pitch - pixels]))
    return Value(out_shape, natural=_crop(forms, _matmul(forms, chooser, spec, layer, (x,), residual), plane, out_shape))


def _conv_of_one_pixel(forms: Forms, chooser: Chooser, node: Node, layer: Layer) -> Value:
    """Of 1×1 images, a convolution is a linear layer over the batch (squeeze-and-excitation) by the tap that meets the pixel."""
    assert layer.geometry is not None
    (kh, kw), (dh, dw), (top, left) = layer.geometry.kernel, layer.geometry.dilation, layer.geometry.padding[:2]
    batch, channels = shape(layer.x)[:2]
    met = (top % dh, left % dw) == (0, 0) and top // dh < kh and left // dw < kw
    taps = layer.matrix.reshape(layer.rows, kh, kw, channels)
    matrix = taps[:, top // dh, left // dw] if met else np.zeros((layer.rows, channels), np.float32)
    layout = layout_of((batch, channels), chooser.target.lanes)
    x = forms.op(relax.op.reshape(forms.natural(layer.x), [batch, channels]))
    residual = None if layer.residual is None else forms.tile(forms.natural(layer.residual), layout, len(matrix))
    spec = MatmulSpec.linear(len(matrix), channels, layout.tiles, layout.tile, _epilogue(layer))
    y = _matmul(forms, chooser, spec, replace(layer, weight=matrix, geometry=None), (forms.tile(x, layout, channels),), residual)
    flat = Value((batch, len(matrix)), tiled=y, layout=layout)
    return Value(shape(node.var), natural=forms.op(relax.op.reshape(forms.untile(flat), list(shape(node.var)))))


def _plane(forms: Forms, x: Expr, plane: Plane, batch: int, channels: int) -> Expr:
    """[batch, channels, height, width] → [batch, channels, plane.size], padded, with the phases of a stride one behind the other."""
    op = relax.op
    (top, left, bottom, right), (sh, sw) = plane.padding, plane.phases
    if plane.skip != (1, 1):
        x = forms.op(op.strided_slice(x, [2, 3], [0, 0], list(shape(x)[2:]), list(plane.skip)))
    crop = [shape(x)[2] + min(bottom, 0), shape(x)[3] + min(right, 0)]
    if crop != list(shape(x)[2:]):
        x = forms.op(op.strided_slice(x, [2, 3], [0, 0], crop))
    if (top, left, max(bottom, 0), max(right, 0)) != (0, 0, 0, 0):
        x = forms.op(op.nn.pad(x, [0, 0, 0, 0, top, max(bottom, 0), left, max(right, 0)]))
    if (sh, sw) != (1, 1):
        x = forms.op(op.reshape(x, [batch, channels, plane.rows, sh, plane.cols, sw]))
        x = forms.op(op.permute_dims(x, [0, 1, 3, 5, 2, 4]))
    held = sh * sw * plane.rows * plane.cols
    x = forms.op(op.reshape(x, [batch, channels, held]))
    return forms.op(op.nn.pad(x, [0, 0, 0, 0, 0, plane.size - held])) if plane.size != held else x


def _crop(forms: Forms, y: Expr, plane: Plane, out: tuple[int, ...]) -> Expr:
    """[batch, rows, plane.pitch] → [batch, rows, height, width]."""
    op = relax.op
    used = plane.height * plane.cols
    if plane.pitch != used:
        y = forms.op(op.strided_slice(y, [2], [0], [used]))
    y = forms.op(op.reshape(y, [out[0], out[1], plane.height, plane.cols]))
    return y if plane.cols == plane.width else forms.op(op.strided_slice(y, [3], [0], [plane.width]))
