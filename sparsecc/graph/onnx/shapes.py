"""What the shapes that an ONNX graph computes are made of: constants, and sizes of values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sparsecc.graph.onnx.fold import constant

Entry = int | tuple[ir.Value, int] | None  # a constant, the size of a value along an axis, or anything else
MOVES = frozenset({"Slice", "Gather", "Concat", "Unsqueeze", "Squeeze", "Cast", "Identity"})  # entries change their places alone


def entries(value: ir.Value | None) -> list[Entry] | None:
    """Of a vector, or of one number; None where not even their count is known."""
    array = constant(value)
    if array is not None:
        return [int(entry) for entry in array.reshape(-1)]
    node = value.producer() if value is not None else None
    if node is not None and node.domain == "":
        found = _shape(node) if node.op_type == "Shape" else _moved(node) if node.op_type in MOVES else None
        if found is not None:
            return found
    shape = value.shape if value is not None else None
    length = None if shape is None else shape[0] if len(shape) else 1
    return [None for _ in range(length)] if isinstance(length, int) else None


def _shape(node: ir.Node) -> list[Entry] | None:
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    sizes: list[Entry] = [(source, axis) for axis in range(len(source.shape))]
    return sizes[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(sizes))]


def _moved(node: ir.Node) -> list[Entry] | None:
    if node.op_type == "Concat":
        return _joined(node.inputs)
    given = entries(node.inputs[0])
    if given is None or node.op_type not in ("Slice", "Gather"):
        return given
    arguments = [constant(value) for value in node.inputs[1:]]
    if any(argument is None for argument in arguments):
        return None
    numbers: list[np.ndarray] = [argument.reshape(-1) for argument in arguments if argument is not None]
    if node.op_type == "Gather":
        return [given[int(index)] for index in numbers[0]]
    start, end, step = int(numbers[0][0]), int(numbers[1][0]), int(numbers[3][0]) if len(numbers) > 3 else 1
    return given[start:end:step] if step > 0 else None


def _joined(pieces: Sequence[ir.Value | None]) -> list[Entry] | None:
    joined: list[Entry] = []
    for piece in pieces:
        found = entries(piece)
        if found is None:
            return None
        joined += found
    return joined
