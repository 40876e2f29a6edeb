"""The ONNX meaning of quantized_linear: functions in domain `ai.sparsecc` whose bodies are standard operators. A node reads

    QuantizedLinear_<scheme>[_nobias](x, *tensors[, bias])  {scheme, rows, cols, site}

and a body decodes sparse values, then multiplies: int8 with one scale for all inputs as QuantizeLinear and DequantizeLinear around a
MatMul, which runtimes recognize and turn into an int8 product; int8 with a scale for each token, which these operators cannot say, as
MatMulInteger and the arithmetic of scales around it; bfloat16 as casts around a float MatMul.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from sparsecc.ops.onnx_functions import LAYER, Body, Call, Value, decoded
from sparsecc.precisions.int8 import LEVELS, Int8

if TYPE_CHECKING:
    from sparsecc.precisions.base import Quantized, Scheme

LINEAR = "QuantizedLinear"
_AXES_AS_INPUT = 18  # the opset in which ReduceMax takes its axes as an input


def op_type(scheme: Scheme, bias: bool) -> str:
    """The function's name: `QuantizedLinear_int8_block_1x4`."""
    return f"{LINEAR}_{scheme.key.replace(':', '_').replace('/', '_')}" + ("" if bias else "_nobias")


def call(weight: Quantized, site: str, bias: bool) -> Call:
    """The node that stands in the place of a site."""
    attributes = {"scheme": weight.scheme.key, "rows": weight.rows, "cols": weight.cols, "site": site}
    return Call(op_type(weight.scheme, bias), attributes)


def function(scheme: Scheme, bias: bool, opset: int) -> ir.Function:
    """The function that a node of one scheme and presence of a bias calls. opset: the model's, at least MIN_OPSET."""
    body = Body(["x", *scheme.tensor_names, *(["bias"] if bias else [])])
    stored = {name: body.inputs[name] for name in scheme.value_names}
    if not isinstance(scheme.precision, Int8):  # runtimes cast bfloat16, and do little else with it
        stored[scheme.value_names[0]] = body.op("CastLike", stored[scheme.value_names[0]], body.inputs["x"])
    format = scheme.format
    values = decoded(body, stored, format) if format else stored[scheme.value_names[0]]
    turned = body.op("Transpose", values, perm=[1, 0])
    if not isinstance(scheme.precision, Int8):
        y = _of_casts(body, turned)
    elif scheme.precision.calibrated:
        y = _of_one_scale(body, turned)
    else:
        y = _of_tokens(body, turned, opset)
    y = body.op("Add", y, body.inputs["bias"]) if bias else y
    return body.function(op_type(scheme, bias), y, opset, {**LAYER, "scheme": ir.AttributeType.STRING})


def _of_casts(body: Body, weight: Value) -> Value:
    x = body.inputs["x"]
    rounded = body.op("CastLike", body.op("Cast", x, to=int(ir.DataType.BFLOAT16)), x)
    return body.op("MatMul", rounded, weight)


def _of_one_scale(body: Body, weight: Value) -> Value:
    scale = body.inputs["input_scale"]
    zero = body.tensor(np.array(0, np.int8))
    # -128 has no negative: runtimes would use it, while values stay within ±127
    limit = body.op("Mul", scale, body.tensor(np.array(LEVELS, np.float32)))
    clipped = body.op("Clip", body.inputs["x"], body.op("Neg", limit), limit)
    x = body.op("DequantizeLinear", body.op("QuantizeLinear", clipped, scale, zero), scale, zero)
    return body.op("MatMul", x, body.op("DequantizeLinear", weight, body.inputs["scales"], axis=1))


def _of_tokens(body: Body, weight: Value, opset: int) -> Value:
    x = body.inputs["x"]
    magnitude = body.op("Abs", x)
    if opset >= _AXES_AS_INPUT:
        largest = body.op("ReduceMax", magnitude, body.ints(-1), keepdims=1)
    else:
        largest = body.op("ReduceMax", magnitude, axes=[-1], keepdims=1)
    scale = body.op("Div", largest, body.tensor(np.array(LEVELS, np.float32)))
    zero, one = (body.tensor(np.array(number, np.float32)) for number in (0, 1))
    scale = body.op("Where", body.op("Greater", largest, zero), scale, one)
    levels = body.op("Cast", body.op("Round", body.op("Div", x, scale)), to=int(ir.DataType.INT8))
    sums = body.op("Cast", body.op("MatMulInteger", levels, weight), to=int(ir.DataType.FLOAT))
    return body.op("Mul", body.op("Mul", sums, scale), body.inputs["scales"])
