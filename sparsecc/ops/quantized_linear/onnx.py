"""The ONNX meaning of quantized_linear: functions in domain `ai.sparsecc` whose bodies are standard operators. A node reads

    QuantizedLinear_<scheme>[_nobias](x, *tensors[, bias])  {scheme, rows, cols, site}

and a body decodes sparse values, then multiplies: int8 with one scale for all inputs as QuantizeLinear and DequantizeLinear around a
MatMul, which runtimes recognize and turn into an int8 product; int8 with a scale for each token, which these operators cannot say, as
MatMulInteger and the arithmetic of scales around it; bfloat16 as casts around a float MatMul.

Which integers are multiplied decides on what CPU the result is right, and how fast it is there. onnxruntime 1.32 adds two products of
unsigned inputs and signed weights in 16 bits, which saturates, where the CPU has no VNNI. Measured with 768 to 3072 inputs and 128 tokens,
2 threads, in parts of the float32 product's time (a Zen 4 that shows AVX2 only; a Xeon with VNNI and AMX):

    signed · signed            2.8 to 3.6; 3.0 to 4.6   exact
    unsigned · unsigned        0.5 to 1.0; 0.6 to 1.3   exact
    unsigned · signed, 8 bits  0.3 to 0.7; 0.2 to 0.5   without VNNI off by 20 % of the largest output
    unsigned · signed, 7 bits  as above; 0.1 to 0.7     exact

So weights in 7 bits are multiplied once. Weights in 8 bits are halved, and multiplied twice: exact, 0.5 to 2 there; 0.6 to 1.2.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsecc.ops.onnx_body import Body, Value
from sparsecc.ops.onnx_decoding import decoded
from sparsecc.ops.onnx_layer import LayerFunctions, with_bias
from sparsecc.precisions.base import Scheme
from sparsecc.precisions.int8 import LEVELS, WEIGHT_LEVELS, Int8

_ZERO = 128  # the zero point of unsigned inputs


class QuantizedLinearFunctions(LayerFunctions[Scheme]):
    """One for each scheme, of whatever shape."""

    def output(self, body: Body, storage: Scheme, rows: int, cols: int) -> Value:
        stored = {name: body.inputs[name] for name in storage.value_names}
        if not isinstance(storage.precision, Int8):  # runtimes cast bfloat16, and do little else with it
            stored[storage.value_names[0]] = body.op("CastLike", stored[storage.value_names[0]], body.inputs["x"])
        format = storage.format
        values = decoded(body, stored, format) if format else stored[storage.value_names[0]]
        turned = body.op("Transpose", values, perm=[1, 0])
        if not isinstance(storage.precision, Int8):
            y = _of_casts(body, turned)
        elif not storage.precision.calibrated:
            y = _of_tokens(body, turned, storage.precision)
        elif _is_narrow(storage.precision):
            y = _of_one_scale(body, turned)
        else:
            y = _scaled(body, _levels_of_one_scale(body), turned, storage.precision, body.inputs["input_scale"])
        return with_bias(body, y)


def _of_casts(body: Body, weight: Value) -> Value:
    x = body.inputs["x"]
    rounded = body.op("CastLike", body.op("Cast", x, to=int(ir.DataType.BFLOAT16)), x)
    return body.op("MatMul", rounded, weight)


def _is_narrow(precision: Int8) -> bool:
    """Whether two products of a weight and an unsigned input fit into 16 bits."""
    return 2 * 255 * WEIGHT_LEVELS[precision.weight_bits] < 1 << 15


def _clipped(body: Body) -> Value:
    # -128 has no negative: runtimes would use it, while values stay within ±127
    limit = body.op("Mul", body.inputs["input_scale"], body.tensor(np.array(LEVELS, np.float32)))
    return body.op("Clip", body.inputs["x"], body.op("Neg", limit), limit)


def _of_one_scale(body: Body, weight: Value) -> Value:
    scale = body.inputs["input_scale"]
    zero = body.tensor(np.array(0, np.int8))
    x = body.op("DequantizeLinear", body.op("QuantizeLinear", _clipped(body), scale, zero), scale, zero)
    return body.op("MatMul", x, body.op("DequantizeLinear", weight, body.inputs["scales"], axis=1))


def _levels_of_one_scale(body: Body) -> Value:
    return body.op("QuantizeLinear", _clipped(body), body.inputs["input_scale"], body.tensor(np.array(_ZERO, np.uint8)))


def _of_tokens(body: Body, weight: Value, precision: Int8) -> Value:
    x = body.inputs["x"]
    largest = body.largest(body.op("Abs", x))
    scale = body.op("Div", largest, body.tensor(np.array(LEVELS, np.float32)))
    zero, one, middle = (body.tensor(np.array(number, np.float32)) for number in (0, 1, _ZERO))
    scale = body.op("Where", body.op("Greater", largest, zero), scale, one)
    levels = body.op("Cast", body.op("Add", body.op("Round", body.op("Div", x, scale)), middle), to=int(ir.DataType.UINT8))
    return _scaled(body, levels, weight, precision, scale)


def _scaled(body: Body, levels: Value, weight: Value, precision: Int8, scale: Value) -> Value:
    """levels: the inputs, uint8 with _ZERO in the place of zero.  scale: what they are multiples of."""
    zero = body.tensor(np.array(_ZERO, np.uint8))
    parts = [weight] if _is_narrow(precision) else _halves(body, weight)
    products = [body.op("MatMulInteger", levels, part, zero) for part in parts]
    sums = products[0] if len(products) == 1 else body.op("Add", *products)
    sums = body.op("Cast", sums, to=int(ir.DataType.FLOAT))
    return body.op("Mul", body.op("Mul", sums, scale), body.inputs["scales"])


def _halves(body: Body, weight: Value) -> list[Value]:
    """Two int8 matrices within ±64 whose sum is `weight`; runtimes compute them once, when they load the model."""
    wide = body.op("Cast", weight, to=int(ir.DataType.INT32))
    half = body.op("Div", wide, body.tensor(np.array(2, np.int32)))
    return [body.op("Cast", part, to=int(ir.DataType.INT8)) for part in (half, body.op("Sub", wide, half))]
