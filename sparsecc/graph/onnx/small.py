"""Arithmetic on shapes, done here to know how large something would become before anybody computes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx.reference

SMALL = 4096  # bytes of what is computed here
Values = Mapping[str, np.ndarray]


def size(node: onnx.NodeProto, values: Values, shape_of: Callable[[str], tuple[int, ...] | None]) -> int | None:
    """How many numbers an operator gives whose result is as large as its arguments say; None for others, and where these are not known."""
    given = [values.get(name) for name in node.input]
    shape = shape_of(node.input[0]) if node.op_type in ("Expand", "Tile") else ()
    if shape is None and given[0] is not None:
        shape = given[0].shape
    wanted = given[1:] if node.op_type in ("Expand", "Tile") else given
    if node.op_type not in _SIZES or shape is None or any(value is None for value in wanted):
        return None
    try:
        return _SIZES[node.op_type](shape, [value for value in wanted if value is not None])
    except (ValueError, ZeroDivisionError, OverflowError):  # shapes that cannot be broadcast, a step of 0: nothing will come of it
        return None


def _range(shape: tuple[int, ...], given: list[np.ndarray]) -> int:
    start, limit, delta = (value.item() for value in given)
    return max(0, math.ceil((limit - start) / delta))


def _expand(shape: tuple[int, ...], given: list[np.ndarray]) -> int:
    wanted = [int(size) for size in given[0]]
    ours = (1,) * (len(wanted) - len(shape)) + shape
    wanted = [1] * (len(ours) - len(wanted)) + wanted
    return math.prod(max(a, b) for a, b in zip(ours, wanted, strict=True))


_SIZES: dict[str, Callable[[tuple[int, ...], list[np.ndarray]], int]] = {
    "ConstantOfShape": lambda shape, given: math.prod(int(size) for size in given[0]),
    "Range": _range,
    "Expand": _expand,
    "Tile": lambda shape, given: math.prod(shape) * math.prod(int(count) for count in given[0]),
}


def evaluated(node: onnx.NodeProto, values: Values, shape: tuple[int, ...] | None, count: int | None) -> dict[str, np.ndarray]:
    """What a node gives, where all is known and small. shape: of the input of a Shape.  count: what `size` says."""
    if shape is not None:
        return {node.output[0]: np.array(shape, np.int64)[_start(node) : _end(node)]}
    if any(name and name not in values for name in node.input) or any(attribute.HasField("g") for attribute in node.attribute):
        return {}
    if (node.op_type in _SIZES and count is None) or (count or 0) * 8 > SMALL:
        return {}
    try:
        with np.errstate(all="ignore"):
            found = onnx.reference.ReferenceEvaluator(node).run(None, {name: values[name] for name in node.input if name})
    except Exception:  # noqa: BLE001 - whatever it cannot compute is not known, and that is an answer
        return {}
    arrays = zip(node.output, found, strict=False)
    return {name: array for name, array in arrays if isinstance(array, np.ndarray) and array.nbytes <= SMALL}


def _start(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "start"), 0)


def _end(node: onnx.NodeProto) -> int | None:
    return next((attribute.i for attribute in node.attribute if attribute.name == "end"), None)
