"""ONNX's operators that TVM's importer lacks, takes for some types only, or takes wrongly."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsecc.codegen.importers import near_zero
from sparsecc.codegen.importers.base import Convert, constant_of, converter, dtype_of, shape_of
from sparsecc.codegen.tvm_api import onnx_frontend, relax


def _pow(builder: Any, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    """Pow(x, y) has the type of x; integers to the power of floats are computed in float64, as onnxruntime does it."""
    base, exponent = (dtype_of(x) for x in inputs)
    if base == exponent:
        return onnx_frontend.Pow.get_converter(13)(builder, inputs, attributes, [])
    kind = base if "float" in base else "float64" if "float" in exponent else exponent
    x, y = (relax.op.astype(x, kind) if given != kind else x for x, given in zip(inputs, (base, exponent), strict=True))
    power = builder.emit(relax.op.power(x, y))
    return power if kind == base else builder.emit(relax.op.astype(power, base))


def _one_hot(builder: Any, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    """where(index = place, on, off): no index is outside, and values keep their type."""
    index, (off, on) = inputs[0], constant_of(inputs[2], "values")
    depth, kind, rank = int(constant_of(inputs[1], "depth").reshape(())), dtype_of(index), len(shape_of(index)) + 1
    axis = int(attributes.get("axis", -1)) % rank
    if "int" not in kind:
        index, kind = builder.emit(relax.op.astype(index, "int64")), "int64"
    from_end = relax.op.add(index, relax.const(depth, kind))
    index = builder.emit(relax.op.where(relax.op.less(index, relax.const(0, kind)), from_end, index))
    places = np.arange(depth).reshape([depth if i == axis else 1 for i in range(rank)])
    hot = builder.emit(relax.op.equal(relax.op.expand_dims(index, axis), relax.const(places, kind)))
    return builder.emit(relax.op.where(hot, *(relax.const(value, str(value.dtype)) for value in (on, off))))


def reverse_sequence(builder: Any, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    """Of each sequence the first `length` entries backwards, the others as they are."""
    x, lengths = inputs
    shape, kind = shape_of(x), dtype_of(lengths)
    time, batch = int(attributes.get("time_axis", 0)), int(attributes.get("batch_axis", 1))
    order = relax.const(np.arange(shape[time]).reshape([-1 if axis == time else 1 for axis in range(len(shape))]), kind)
    lengths = builder.emit(relax.op.clip(lengths, 0, shape[time]))  # which data may say, and what is read must not go by it
    ends = builder.emit(relax.op.reshape(lengths, [shape[batch] if axis == batch else 1 for axis in range(len(shape))]))
    mirrored = relax.op.subtract(relax.op.subtract(ends, relax.const(1, kind)), order)
    index = builder.emit(relax.op.where(relax.op.less(order, ends), mirrored, order))
    return builder.emit(relax.op.gather_elements(x, relax.op.broadcast_to(index, shape), axis=time))


def _celu(builder: Any, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    """max(x, 0) + min(alpha·(e^(x/alpha) - 1), 0)."""
    alpha, zero = (relax.const(value, dtype_of(inputs[0])) for value in (attributes.get("alpha", 1.0), 0))
    below = builder.emit(relax.op.exp(builder.emit(relax.op.divide(builder.emit(relax.op.minimum(inputs[0], zero)), alpha))))
    below = relax.op.multiply(alpha, relax.op.subtract(below, relax.const(1, dtype_of(inputs[0]))))
    return builder.emit(relax.op.add(relax.op.nn.relu(inputs[0]), builder.emit(below)))


def _swish(builder: Any, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    """x·sigmoid(alpha·x)."""
    scaled = relax.op.multiply(inputs[0], relax.const(attributes.get("alpha", 1.0), dtype_of(inputs[0])))
    return builder.emit(relax.op.multiply(inputs[0], builder.emit(relax.op.sigmoid(builder.emit(scaled)))))


def _lp_normalization(builder: Any, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    """x divided by its norm along an axis; by nothing where that is 0, as onnxruntime does."""
    x, axis = inputs[0], int(attributes.get("axis", -1))
    if int(attributes.get("p", 2)) == 1:
        norm = builder.emit(relax.op.sum(builder.emit(relax.op.abs(x)), axis, keepdims=True))
    else:
        norm = builder.emit(relax.op.sqrt(builder.emit(relax.op.sum(builder.emit(relax.op.multiply(x, x)), axis, keepdims=True))))
    none, one = relax.op.equal(norm, relax.const(0, dtype_of(x))), relax.const(1, dtype_of(x))
    return builder.emit(relax.op.divide(x, builder.emit(relax.op.where(builder.emit(none), one, norm))))


_OPERATORS = {
    "Celu": _celu,
    "LpNormalization": _lp_normalization,
    "OneHot": _one_hot,
    "Pow": _pow,
    "ReverseSequence": reverse_sequence,
    "Swish": _swish,
}


def _one_by_one(function: near_zero.Function) -> Convert:
    return lambda builder, inputs, attributes: function(builder.emit, inputs[0])


_OPERATORS |= {name.capitalize(): _one_by_one(near_zero.FUNCTIONS[name]) for name in ("sinh", "asinh", "atanh")}


def operators() -> dict[str, Any]:
    """By op_type."""
    return {name: converter(convert) for name, convert in _OPERATORS.items()}
