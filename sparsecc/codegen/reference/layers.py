"""A linear layer or convolution, with its weight dense and everything that is folded into it spelled out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparsecc.codegen.backend import UnnamedError
from sparsecc.codegen.plain.operators import ACTIVATIONS
from sparsecc.codegen.plain.tensors import Tensors
from sparsecc.codegen.recognize.program import Expr, Geometry, Layer, image_shape, shape
from sparsecc.codegen.tvm_api import relax
from sparsecc.precisions.int8 import HALF_SPAN, LEVELS

_ACTIVATIONS: dict[str, Callable[[Tensors, Expr], Expr]] = {
    **ACTIVATIONS,
    "relu": lambda tensors, x: tensors.op(relax.op.nn.relu(x)),
    "gelu_tanh": lambda tensors, x: tensors.op(relax.op.nn.gelu_tanh(x)),
    "sigmoid": lambda tensors, x: tensors.op(relax.op.sigmoid(x)),
    "tanh": lambda tensors, x: tensors.op(relax.op.tanh(x)),
}


def layer(tensors: Tensors, what: Layer) -> Expr:
    """act(x Wᵀ + b), or of a convolution; with scale, shift and residual where these stand."""
    y = _product(tensors, what) if what.geometry is None else _convolution(tensors, what, what.geometry)
    residual = None if what.residual is None else tensors.natural(what.residual)
    if residual is not None and what.residual_first:
        y = tensors.op(relax.op.add(y, residual))
    if what.activation is not None:
        y = _ACTIVATIONS[what.activation](tensors, y)
    if (what.scale, what.shift) != (1.0, 0.0):
        scaled = tensors.op(relax.op.multiply(y, relax.const(what.scale, "float32")))
        y = tensors.op(relax.op.add(scaled, relax.const(what.shift, "float32")))
    if residual is not None and not what.residual_first:
        y = tensors.op(relax.op.add(y, residual))
    return y


def _product(tensors: Tensors, what: Layer) -> Expr:
    x = _narrowed(tensors, tensors.natural(what.x), what)
    y = tensors.op(relax.op.matmul(x, tensors.weight(np.ascontiguousarray(what.matrix.astype(np.float32).T))))
    return y if what.bias is None else tensors.op(relax.op.add(y, tensors.weight(what.bias.astype(np.float32))))


def _narrowed(tensors: Tensors, x: Expr, what: Layer) -> Expr:
    """x as the layer's number format rounds it; int8 by a scale and a zero point for each token, or by the scale that calibration found."""
    op = relax.op
    if what.dtype == "bfloat16":
        return tensors.op(op.astype(tensors.op(op.astype(x, "bfloat16")), "float32"))
    if what.dtype == "float32":
        return x
    if what.input_scale is None:
        return _by_tokens(tensors, x)
    scale = relax.const(what.input_scale, "float32")
    levels = tensors.op(op.clip(tensors.op(op.round(tensors.op(op.divide(x, scale)))), -LEVELS, LEVELS))
    return tensors.op(op.multiply(levels, scale))


def _by_tokens(tensors: Tensors, x: Expr) -> Expr:
    """As `Int8.round_inputs` has it."""
    op, made = relax.op, tensors.op
    nothing, two, half_span, least = (relax.const(number, "float32") for number in (0.0, 2.0, float(HALF_SPAN), 1e-38))
    low = made(op.minimum(made(op.min(x, -1, keepdims=True)), nothing))
    high = made(op.maximum(made(op.max(x, -1, keepdims=True)), nothing))
    half = made(op.subtract(made(op.divide(high, two)), made(op.divide(low, two))))
    scale = made(op.maximum(made(op.divide(half, half_span)), least))
    zero = made(op.subtract(made(op.round(made(op.divide(made(op.negative(low)), scale)))), half_span))
    levels = made(op.round(made(op.add(made(op.divide(x, scale)), zero))))
    return made(op.multiply(made(op.subtract(levels, zero)), scale))


def _convolution(tensors: Tensors, what: Layer, geometry: Geometry) -> Expr:
    if geometry.transposed or geometry.phases != (1, 1) or min(geometry.padding) < 0:
        raise UnnamedError("the reference backend knows no transposed convolutions, and none that crop")
    x = tensors.natural(what.x)
    batch, channels, height, width = image_shape(x)
    line = len(shape(x)) == 3
    image = tensors.op(relax.op.reshape(x, [batch, channels, height, width])) if line else x
    apart = 1 if geometry.depthwise else channels
    weight = what.matrix.astype(np.float32).reshape(what.rows, *geometry.kernel, apart).transpose(0, 3, 1, 2)
    y = tensors.op(
        relax.op.nn.conv2d(
            image,
            tensors.weight(np.ascontiguousarray(weight)),
            strides=geometry.stride,
            padding=geometry.padding,
            dilation=geometry.dilation,
            groups=channels // apart,
        )
    )
    if what.bias is not None:
        y = tensors.op(relax.op.add(y, tensors.weight(what.bias.astype(np.float32).reshape(-1, 1, 1))))
    return tensors.op(relax.op.reshape(y, [shape(y)[0], shape(y)[1], shape(y)[3]])) if line else y
