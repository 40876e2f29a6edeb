"""Depthwise convolutions and pooling as calls of their kernels."""

from __future__ import annotations

import math

import numpy as np

from sparsecc.codegen.cpu.emit.conv import image_of
from sparsecc.codegen.cpu.forms import Forms
from sparsecc.codegen.cpu.layout import Value
from sparsecc.codegen.cpu.operators import depthwise_conv, max_pool
from sparsecc.codegen.cpu.operators.depthwise_conv import DepthwiseSpec
from sparsecc.codegen.cpu.pieces.windows import Windows
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.recognize.program import Expr, Layer, Node, dtype, four_sides, image_shape, pair, shape
from sparsecc.codegen.spec import Epilogue
from sparsecc.codegen.tvm_api import relax


def emit_depthwise(forms: Forms, target: Target, node: Node, layer: Layer, epilogue: Epilogue) -> Value:
    assert layer.geometry is not None
    batch, channels, height, width = image_shape(layer.x)
    g, out = layer.geometry, image_shape(node.var)
    x, pitches = _rows(forms, layer.x)
    windows = Windows(batch * channels, height, width, out[2], out[3], g.kernel, g.stride, g.padding[:2], g.dilation, *pitches)
    spec = DepthwiseSpec(windows, channels, epilogue)
    bias = forms.weight(np.zeros(channels, np.float32) if layer.bias is None else np.asarray(layer.bias, np.float32))
    weight = forms.weight(np.ascontiguousarray(layer.matrix.reshape(channels, *g.kernel)))
    residual = bias if layer.residual is None else _flat(forms, forms.natural(layer.residual))
    kernel = forms.kernel(spec, lambda: depthwise_conv.build(spec, target))
    y = forms.call(kernel, [x, weight, bias, residual], (math.prod(out),))
    return Value(shape(node.var), natural=forms.op(relax.op.reshape(y, list(shape(node.var)))))


def emit_max_pool(forms: Forms, target: Target, node: Node) -> Value | None:
    if node.op != "nn.max_pool2d" or dtype(node.var) != "float32" or node.attrs.layout != "NCHW" or node.attrs.out_layout != "NCHW":
        return None
    batch, channels, height, width = shape(node.args[0])
    out, attrs = shape(node.var), node.attrs
    kernel, stride, dilation = (pair(v) for v in (attrs.pool_size, attrs.strides, attrs.dilation))
    x, pitches = _rows(forms, node.args[0])
    windows = Windows(batch * channels, height, width, out[2], out[3], kernel, stride, four_sides(attrs.padding)[:2], dilation, *pitches)
    built = forms.kernel(windows, lambda: max_pool.build(windows, target))
    lowest = relax.const(np.full(1, -np.inf, np.float32))
    y = forms.call(built, [x, lowest], (math.prod(out),))
    return Value(out, natural=forms.op(relax.op.reshape(y, list(out))))


def _rows(forms: Forms, x: Expr) -> tuple[Expr, tuple[int, int]]:
    """x flat, and the pitches of its rows and channels."""
    image = image_of(forms, x)
    if image.strides[0] != shape(x)[1] * image.strides[1] or image.strides[3] != 1:  # something transposed
        return _flat(forms, forms.natural(x)), (shape(x)[-1], math.prod(shape(x)[2:]))
    return _flat(forms, image.held), (image.strides[2], image.strides[1])


def _flat(forms: Forms, x: Expr) -> Expr:
    return forms.op(relax.op.reshape(x, [math.prod(shape(x))]))
