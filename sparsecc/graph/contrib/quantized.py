"""Operators on quantized values: integers where the product is of integers, else as floats in between."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto

from sparsecc.graph.contrib.attention import attend_to_projected
from sparsecc.graph.contrib.elementwise import activated
from sparsecc.graph.contrib.parts import CannotError, Parts, Rule


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


def q_linear_concat(parts: Parts) -> Sequence[str]:
    scale, zero, *rest = parts.node.input
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
    """(x - x_zero) convolved with (w - w_zero): float32 holds sums below 2^24 exactly, which are 2^24 / 255 / 127 = 518 products."""
    x, w, x_zero, w_zero = parts.inputs(4)
    several = w_zero is not None and len(parts.shape(w_zero)) == 1 and parts.shape(w_zero) != [1]
    if several:
        w_zero = parts.op("Reshape", w_zero, parts.ints(-1, *[1] * (len(parts.shape(w)) - 1)))
    real = [_shifted(parts, value, zero) for value, zero in ((x, x_zero), (w, w_zero))]
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    attributes = {name: parts.attributes[name] for name in names if name in parts.attributes}
    y = parts.op("Conv", *real, named=True, **attributes)
    return [parts.op("Cast", parts.op("Round", y), to=TensorProto.INT32)]


def _shifted(parts: Parts, x: str, zero: str | None) -> str:
    real = parts.op("Cast", x, to=TensorProto.FLOAT)
    return real if zero is None else parts.op("Sub", real, parts.op("Cast", zero, to=TensorProto.FLOAT))


def renamed(parts: Parts) -> Sequence[str]:
    """The same operator of the standard."""
    return parts.several(parts.node.op_type, list(parts.node.input), len(parts.node.output), **parts.attributes)


def _integer_product(parts: Parts, a: str, b: str, a_scale: str, b_scale: str, a_zero: str | None, b_zero: str | None) -> str:
    """(a - a_zero) · (b - b_zero), with the scales of a whole and of b's columns."""
    product = parts.op("MatMulInteger", a, b, a_zero, b_zero, named=True)
    return parts.op("Mul", parts.op("Cast", product, to=TensorProto.FLOAT), parts.op("Mul", a_scale, b_scale))


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
