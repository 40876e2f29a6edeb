"""Operators on quantized values: integers where the product is of integers, else as floats in between."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from sparsecc.graph.onnx.contrib.attention import attend_to_projected
from sparsecc.graph.onnx.contrib.elementwise import activated
from sparsecc.graph.onnx.contrib.parts import CannotError, Parts, Rule

_EXACT, _BYTE = 2**24, 255  # up to which float32 has all integers; the largest of a byte, and of one less a zero point
_SIXTEEN_BITS = (TensorProto.UINT16, TensorProto.INT16)


def q_attention(parts: Parts) -> Sequence[str | None]:
    x, weights, bias, x_scale, w_scale, mask, x_zero, w_zero, past = parts.inputs(9)
    projected = parts.sum(_integer_product(parts, x, weights, x_scale, w_scale, x_zero, w_zero), bias)
    return attend_to_projected(parts, projected, parts.size(weights, 1), parts.attributes["num_heads"], mask, past, None)


def dynamic_quantize_matmul(parts: Parts) -> Sequence[str]:
    x, weights, w_scale, w_zero, bias = parts.inputs(5)
    integers, x_scale, x_zero = parts.several("DynamicQuantizeLinear", [x], 3)
    return [parts.sum(_integer_product(parts, integers, weights, x_scale, w_scale, x_zero, w_zero), bias)]


def matmul_integer_to_float(parts: Parts) -> Sequence[str]:
    a, b, a_scale, b_scale, a_zero, b_zero, bias = parts.inputs(7)
    return [parts.sum(_integer_product(parts, a, b, a_scale, b_scale, a_zero, b_zero), bias)]


def q_linear_binary(op_type: str) -> Rule:
    """A and B of two tensors with scales and zero points of their own."""

    def rule(parts: Parts) -> Sequence[str]:
        a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = parts.inputs(8)
        result = parts.op(op_type, _real(parts, a, a_scale, a_zero), _real(parts, b, b_scale, b_zero))
        return [_quantized(parts, result, scale, zero)]

    return rule


def q_linear_unary(op_type: str, *kept: str) -> Rule:
    """kept: attributes that the standard operator has, too."""

    def rule(parts: Parts) -> Sequence[str]:
        x, x_scale, x_zero, scale, zero = parts.inputs(5)
        if parts.get("channels_last", 0):
            raise CannotError("its channels come last")
        attributes = {name: parts.attributes[name] for name in kept if name in parts.attributes}
        return [_quantized(parts, parts.op(op_type, _real(parts, x, x_scale, x_zero), **attributes), scale, zero)]

    return rule


def q_linear_softmax(parts: Parts) -> Sequence[str]:
    """Along an axis; as it was before opset 13, which an attribute says, over all axes from that one on."""
    x, x_scale, x_zero, scale, zero = parts.inputs(5)
    real, axis = _real(parts, x, x_scale, x_zero), parts.get("axis", -1)
    if parts.get("opset", 13) < 13:
        flat = parts.op("Softmax", parts.op("Flatten", real, axis=axis), axis=-1)
        return [_quantized(parts, parts.op("Reshape", flat, parts.op("Shape", real)), scale, zero)]
    return [_quantized(parts, parts.op("Softmax", real, axis=axis), scale, zero)]


def q_linear_concat(parts: Parts) -> Sequence[str]:
    scale, zero, *rest = parts.node.input
    if len(rest) % 3:
        raise CannotError("it has a value without scale or zero point")
    values = [_real(parts, x, x_scale, x_zero) for x, x_scale, x_zero in zip(rest[::3], rest[1::3], rest[2::3], strict=True)]
    return [_quantized(parts, parts.op("Concat", *values, axis=parts.attributes["axis"]), scale, zero)]


def q_gemm(parts: Parts) -> Sequence[str]:
    a, a_scale, a_zero, b, b_scale, b_zero, c, scale, zero = parts.inputs(9)
    attributes = {name: parts.attributes[name] for name in ("transA", "transB") if name in parts.attributes}
    columns = 0 if parts.get("transB", 0) else 1
    real_a, real_b = _real(parts, a, a_scale, a_zero), _real(parts, b, b_scale, b_zero, axis=columns)
    y = parts.op("Gemm", real_a, real_b, named=True, alpha=parts.get("alpha", 1.0), **attributes)
    if c is not None:
        factor = parts.op("Mul", parts.op("Mul", a_scale, b_scale), parts.number(parts.get("alpha", 1.0)))
        y = parts.op("Add", y, parts.op("Mul", parts.op("Cast", c, to=TensorProto.FLOAT), factor))
    return [y if scale is None else _quantized(parts, y, scale, zero)]


def q_linear_matmul(parts: Parts) -> Sequence[str]:
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = parts.inputs(8)
    rank = len(parts.shape(b))
    y = parts.op("MatMul", _real(parts, a, a_scale, a_zero), _real(parts, b, b_scale, b_zero, axis=rank - 1), named=True)
    return [_quantized(parts, y, scale, zero)]


def q_linear_conv(parts: Parts) -> Sequence[str]:
    x, x_scale, x_zero, w, w_scale, w_zero, scale, zero, bias = parts.inputs(9)
    if parts.get("channels_last", 0):
        raise CannotError("its channels come last")
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    attributes = {name: parts.attributes[name] for name in names if name in parts.attributes}
    real = None
    if bias is not None:
        real = parts.op("Mul", parts.op("Cast", bias, to=TensorProto.FLOAT), parts.op("Mul", x_scale, w_scale))
    y = parts.op("Conv", _real(parts, x, x_scale, x_zero), _real(parts, w, w_scale, w_zero, axis=0), real, named=True, **attributes)
    return [_quantized(parts, activated(parts, y, parts.get("activation", ""), list(parts.get("activation_params", []))), scale, zero)]


def conv_integer(parts: Parts) -> Sequence[str]:
    """(x - x_zero) convolved with (w - w_zero) in float32, which holds sums below 2^24 exactly. Weights with which they may be larger are
    digits, w = d₀ + b · d₁ + .., of a base with which they cannot, and each digit is a convolution."""
    x, w, x_zero, w_zero = parts.inputs(4)
    if w_zero is not None and len(parts.shape(w_zero)) == 1 and parts.shape(w_zero) != [1]:
        w_zero = parts.op("Reshape", w_zero, parts.ints(-1, *[1] * (len(parts.shape(w)) - 1)))
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    attributes = {name: parts.attributes[name] for name in names if name in parts.attributes}
    most = _EXACT // (_BYTE * max(1, math.prod(parts.size(w, axis) for axis in range(1, len(parts.shape(w))))))
    digits, base = _digits(parts, w, w_zero, most), 2 * most + 1
    image, total = _shifted(parts, x, x_zero), None
    for place, digit in enumerate(digits):
        y = parts.op("Round", parts.op("Conv", image, digit, named=place == 0, **attributes))
        part = parts.op("Cast", y, to=TensorProto.INT32)
        part = part if place == 0 else parts.op("Mul", part, parts.const(base**place, np.int32))
        total = parts.sum(total, part)
    assert total is not None
    return [total]


def _digits(parts: Parts, w: str, zero: str | None, most: int) -> list[str]:
    """What sums to w - zero, each `2 · most + 1` times the one before and between -most and most."""
    signed = parts.dtype(w) == TensorProto.INT8
    if (2**7 if signed and zero is None else _BYTE) <= most:
        return [_shifted(parts, w, zero)]
    if most < 1:
        raise CannotError("it adds more products than float32 can hold exactly")
    left = parts.array(w, "weight").astype(np.int64)
    given = parts.node.input[3] if zero is not None else None
    if given is not None:
        left = left - parts.array(given, "zero point of the weight").astype(np.int64).reshape(-1, *[1] * (left.ndim - 1))
    found, base = [], 2 * most + 1
    while left.any() or not found:
        digit = (left + most) % base - most
        left = (left - digit) // base
        found.append(parts.const(digit, np.float32))
    return found


def _shifted(parts: Parts, x: str, zero: str | None) -> str:
    real = parts.op("Cast", x, to=TensorProto.FLOAT)
    return real if zero is None else parts.op("Sub", real, parts.op("Cast", zero, to=TensorProto.FLOAT))


def renamed(parts: Parts) -> Sequence[str]:
    """The same operator of the standard."""
    return parts.several(parts.node.op_type, list(parts.node.input), len(parts.node.output), **parts.attributes)


def dequantize(parts: Parts) -> Sequence[str]:
    """(x - zero) · scale: with the standard's operator, if its opset takes the types."""
    if _is_standard(parts):
        return renamed(parts)
    x, scale, zero = _along(parts)
    real = parts.op("Cast", x, to=parts.kind)
    real = real if zero is None else parts.op("Sub", real, parts.op("Cast", zero, to=parts.kind))
    return [parts.op("Mul", real, scale)]


def quantize(parts: Parts) -> Sequence[str]:
    """x / scale, rounded, + zero, within the type of zero: with the standard's operator, if its opset takes the types."""
    if _is_standard(parts):
        return renamed(parts)
    x, scale, zero = _along(parts)
    kind = TensorProto.UINT8 if zero is None else parts.dtype(parts.input(2))
    if kind is None or kind not in (TensorProto.UINT8, TensorProto.INT8, *_SIXTEEN_BITS):
        raise CannotError("it makes numbers of a type that is not known, or of 4 bits")
    limits = np.iinfo(helper.tensor_dtype_to_np_dtype(kind))
    wide = parts.op("Round", parts.op("Div", *(parts.op("Cast", value, to=TensorProto.FLOAT) for value in (x, scale))))
    wide = wide if zero is None else parts.op("Add", wide, parts.op("Cast", zero, to=TensorProto.FLOAT))
    wide = parts.op("Clip", wide, *(parts.const(limit, np.float32) for limit in (limits.min, limits.max)))
    return [parts.op("Cast", wide, to=kind)]


def _is_standard(parts: Parts) -> bool:
    """16 bits came with opset 21, scales of float16 with 19."""
    x, _, zero = parts.inputs(3)
    narrow = {parts.dtype(x), parts.dtype(zero)}.isdisjoint(_SIXTEEN_BITS)
    return (narrow or parts.known.opset >= 21) and (parts.kind == TensorProto.FLOAT or parts.known.opset >= 19)


def _along(parts: Parts) -> list[Any]:
    """x, scale and zero point; where these are several, with the axes that x has."""
    x, scale, zero = parts.inputs(3)
    if parts.shape(scale) in ([], [1]):
        sizes = parts.const([], np.int64)
    else:
        rank = len(parts.shape(x))
        sizes = parts.ints(*(-1 if axis == parts.get("axis", 1) % rank else 1 for axis in range(rank)))
    return [x, *(None if value is None else parts.op("Reshape", value, sizes) for value in (scale, zero))]


def _integer_product(parts: Parts, a: str, b: str, a_scale: str, b_scale: str, a_zero: str | None, b_zero: str | None) -> str:
    """(a - a_zero) · (b - b_zero), with the scales of a whole and of b's columns."""
    product = parts.op("MatMulInteger", a, b, a_zero, b_zero, named=True)
    return parts.op("Mul", parts.op("Cast", product, to=parts.kind), parts.op("Mul", a_scale, b_scale))


def _real(parts: Parts, x: str, scale: str, zero: str | None, axis: int = 0) -> str:
    """axis: of scales that are several."""
    several = len(parts.shape(scale)) > 0 and parts.shape(scale) != [1]
    if not several and len(parts.shape(scale)) == 1:  # one number in a vector
        scale, zero = (None if value is None else parts.op("Reshape", value, parts.const([], "int64")) for value in (scale, zero))  # type: ignore[assignment]
    if several:
        return parts.op("DequantizeLinear", x, scale, zero, axis=axis)
    return parts.op("DequantizeLinear", x, scale, zero)


def _quantized(parts: Parts, x: str, scale: str, zero: str | None) -> str:
    return parts.op("QuantizeLinear", x, scale, zero)
