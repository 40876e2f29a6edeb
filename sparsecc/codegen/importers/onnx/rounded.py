"""Operators of ONNX and of com.microsoft that round what flows in to eight bits, by a scale that they find in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sparsecc.codegen.importers.base import Placeholders, constant_of, converter, shape_of
from sparsecc.codegen.importers.onnx.lengths import Lengths
from sparsecc.codegen.importers.onnx.recurrent import check, directed, layer_of, padded, specs, stacked, state_of
from sparsecc.codegen.recurrent import extra
from sparsecc.codegen.tvm_api import relax
from sparsecc.errors import ModelError

MICROSOFT = frozenset({"DynamicQuantizeLSTM"})  # the operators of com.microsoft among them


def rounding_converters(placeholders: Placeholders) -> dict[str, Any]:
    """By op_type, for TVM's table of converters."""

    def dynamic(builder: Any, inputs: list[Any], attributes: dict[str, Any]) -> Any:
        levels, scale, zero = _rounded(builder, inputs[0])
        return relax.Tuple([builder.emit(relax.op.astype(levels, "uint8")), scale, builder.emit(relax.op.astype(zero, "uint8"))])

    def lstm(builder: Any, inputs: list[Any], attributes: dict[str, Any]) -> Any:
        return _lstm(builder, inputs, attributes, placeholders)

    return {"DynamicQuantizeLinear": converter(dynamic), "DynamicQuantizeLSTM": converter(lstm)}


def _rounded(builder: Any, x: Any) -> tuple[Any, Any, Any]:
    """x as 0 to 255, its scale and its zero point, all as floats. Where all of x is zero the scale is 1, as in onnxruntime."""
    op, nothing, most = relax.op, relax.const(0.0), relax.const(255.0)
    high, low = builder.emit(op.maximum(op.max(x), nothing)), builder.emit(op.minimum(op.min(x), nothing))
    scale = builder.emit(op.divide(op.subtract(high, low), most))
    scale = builder.emit(op.where(op.equal(high, low), relax.const(1.0), scale))
    zero = builder.emit(op.round(op.clip(op.divide(op.negative(low), scale), 0, 255)))
    levels = builder.emit(op.clip(op.add(op.round(op.divide(x, scale)), zero), 0, 255))
    return levels, scale, zero


def _lstm(builder: Any, inputs: list[Any], attributes: dict[str, Any], placeholders: Placeholders) -> Any:
    """As LSTM, with W [directions, inputs, rows] and R [directions, hidden, rows] of eight bits, and scales for all or for each row."""
    x, w, r, b, lengths, h0, c0, peepholes, *quantization = (*inputs, *[None] * 12)[:12]
    steps, batch, _ = shape_of(x)
    if Lengths.of(builder, lengths, steps) is not None:
        raise ModelError("sequence_lens: sequences of different lengths are not supported; pad them and leave the input out")
    check("LSTM", attributes, False)
    weights, recurrent = constant_of(w, "W"), constant_of(r, "R")
    directions, hidden, rows = recurrent.shape
    bias = np.zeros((directions, 2 * rows), np.float32) if b is None else constant_of(b, "B")
    holes = np.zeros((directions, 3 * hidden), np.float32) if peepholes is None else constant_of(peepholes, "P")
    names = ("W_scale", "W_zero_point", "R_scale", "R_zero_point")
    found = [_by_row(value, name, directions, rows) for value, name in zip(quantization, names, strict=True)]
    rounded, scale, zero = _rounded(builder, x)
    levels = builder.emit(relax.op.subtract(rounded, zero))
    made = []
    for place, spec in enumerate(specs("LSTM", attributes, steps, batch, hidden)):
        w_scale, w_zero, r_scale, r_zero = (array[place] for array in found)
        spec = replace(spec, dtype=recurrent.dtype.name)
        layer = layer_of(spec, (weights[place] - w_zero).T, recurrent[place].T, bias[place], holes[place])
        layer = replace(layer, extra=extra(spec, layer.extra, *(padded(spec, x[:, None]) for x in (r_scale, r_zero))))
        product = builder.emit(relax.op.matmul(levels, relax.const(np.ascontiguousarray(layer.w.T))))
        factors = builder.emit(relax.op.multiply(scale, relax.const(padded(spec, w_scale[:, None])[:, 0])))
        projected = builder.emit(relax.op.add(relax.op.multiply(product, factors), relax.const(layer.bias)))
        state = [state_of(builder, value, place, spec, False) for value in (h0, c0)]
        made.append(directed(builder, projected, layer, state, placeholders))
    return relax.Tuple(stacked(builder, made))


def _by_row(value: Any, name: str, directions: int, rows: int) -> np.ndarray:
    """[directions, rows]; zeros where a zero point is left out."""
    if value is None:
        return np.zeros((directions, rows), np.float32)
    array = constant_of(value, name).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(array.reshape(directions, -1), (directions, rows)))
