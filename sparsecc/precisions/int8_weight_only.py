"""8-bit integers, a scale for each row or in groups of inputs, for weights alone: inputs stay as they are, which `int8` rounds.

In ONNX files the float32 matrix is arithmetic on the numbers, which runtimes do once, when they load the model: the file is a quarter, the
product is that of float32. What onnxruntime has for numbers in 8 bits either rounds inputs or is slow. Measured with onnxruntime 1.32, 4096
inputs and outputs, groups of 128, one thread of a Zen 3, milliseconds for 1 and for 128 tokens, and the error by the largest output:

    float32                                  6.2   57   4e-7
    MatMulNBits, accuracy_level 1          119    209   4e-7
    MatMulNBits, accuracy_level 4            2.3   98   7e-3
    DequantizeLinear, [inputs, outputs]      2.5   99   7e-3
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sparsecc.precisions._groups import InGroups
from sparsecc.precisions.base import ROW, Group, Nodes, T


@dataclass(frozen=True)
class Int8WeightOnly(InGroups):
    """w ≈ scale · (number - zero) with a scale, and where not symmetric a zero, for each row or group of inputs; numbers in [-128, 127].

    values: int8 [rows, cols], number - zero modulo 256.  scales: float32 [rows, groups], numbers of the weight's own
    type.  zeros: int8 [rows, groups].
    """

    value_bits: ClassVar[int] = 8
    examples = ("row", "row:asymmetric", "128", "32:asymmetric")
    group: Group = ROW

    def product(self, nodes: Nodes[T], x: T, weight: T, scales: Mapping[str, T]) -> T:
        wide = nodes.cast(weight, "int32")
        if not self.symmetric:
            zeros = self._spread_in(nodes, nodes.cast(scales["zeros"], "int32"), wide)
            middle, top = (nodes.tensor(np.array(number, np.int32)) for number in (128, 256))
            moved = nodes.op("Add", zeros, middle)  # number - zero is known modulo 256, and number lies in [-128, 127]
            wide = nodes.op("Sub", nodes.op("Mod", nodes.op("Add", wide, moved), top), moved)
        matrix = nodes.op("Mul", nodes.cast(wide, "float32"), self._spread_in(nodes, scales["scales"], wide))
        return nodes.op("MatMul", x, matrix)

    def _spread_in(self, nodes: Nodes[T], of_groups: T, matrix: T) -> T:
        """[cols, rows], or [1, rows] where that says the same, of [rows, groups].  matrix: [cols, rows]."""
        turned = nodes.op("Transpose", of_groups, perm=[1, 0])
        if self.group == ROW:
            return turned
        start, step = (nodes.tensor(np.array(number)) for number in (0, 1))
        cols = nodes.op("Gather", nodes.op("Shape", matrix), start, axis=0)
        places = nodes.op("Div", nodes.op("Range", start, cols, step), nodes.tensor(np.array(self.group)))
        return nodes.op("Gather", turned, places, axis=0)
