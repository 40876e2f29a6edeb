"""4-bit integers in groups of inputs, for weights alone: inputs stay as they are.

In ONNX files a layer is onnxruntime's MatMulNBits, which reads the numbers as they lie and multiplies in float32 (accuracy_level 1).
DequantizeLinear in blocks (opset 21) before a MatMul is no way to say that: where its axis is the first, onnxruntime takes it for leave to
round inputs to 8 bits, and where it is the last, each call makes the float32 matrix anew. Measured with onnxruntime 1.32, 4096 inputs and
outputs, groups of 128, one thread of a Zen 3, milliseconds for 1 and for 128 tokens, and the error by the largest output:

    float32                                  6.2   57   4e-7
    MatMulNBits, accuracy_level 1            4.4   59   2e-6
    MatMulNBits, accuracy_level 4            0.7   48   7e-3
    DequantizeLinear, [inputs, outputs]      1.0   66   7e-3
    DequantizeLinear, [outputs, inputs]     57    134   3e-7
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sparsecc.precisions._groups import InGroups
from sparsecc.precisions.base import ROW, Nodes, T

_OF_A_ROW = 128  # inputs in a group, in an ONNX file, where a row has one scale: its operator knows no rows
_MIDDLE = 8  # of the numbers from 0 up that MatMulNBits reads


@dataclass(frozen=True)
class Int4(InGroups):
    """w ≈ scale · (number - zero) with a scale, and where not symmetric a zero, for each group of inputs; numbers in [-8, 7].

    values: uint8 [rows, ⌈cols/2⌉], number - zero modulo 16, the first of two in the lower half of a byte.  scales: float32 [rows, groups],
    numbers of the weight's own type.  zeros: int8 [rows, groups].
    """

    value_bits: ClassVar[int] = 4
    examples = ("128", "32:asymmetric", "row", "row:asymmetric")

    def product(self, nodes: Nodes[T], x: T, weight: T, scales: Mapping[str, T]) -> T:
        return self.product_of_pairs(nodes, x, _in_pairs(nodes, nodes.op("Transpose", weight, perm=[1, 0])), scales)

    def product_of_pairs(self, nodes: Nodes[T], x: T, pairs: T, scales: Mapping[str, T]) -> T:
        group = _OF_A_ROW if self.group == ROW else int(self.group)
        zeros = nodes.tensor(np.array(_MIDDLE, np.uint8)) if self.symmetric else _from_zero(nodes, scales["zeros"])
        in_groups = nodes.op("Reshape", _filled(nodes, pairs, group // 2), nodes.tensor(np.array([0, -1, group // 2])))
        of_group = zeros if self.symmetric else nodes.op("Unsqueeze", zeros, nodes.tensor(np.array([2])))
        numbers, steps = _moved(nodes, in_groups, of_group), scales["scales"]
        if self.group == ROW:
            shape = nodes.op("Slice", nodes.op("Shape", numbers), nodes.tensor(np.array([0])), nodes.tensor(np.array([2])))
            steps, zeros = (nodes.op("Expand", of_rows, shape) for of_rows in (steps, zeros))
        steps = nodes.op("Reshape", steps, nodes.tensor(np.array([-1])))
        return nodes.matmul_nbits(x, numbers, steps, None if self.symmetric else _in_pairs(nodes, zeros), 4, group)


def _from_zero(nodes: Nodes[T], zeros: T) -> T:
    """int8 in [-8, 7] → uint8 in [0, 15]."""
    wide = nodes.op("Add", nodes.cast(zeros, "int32"), nodes.tensor(np.array(_MIDDLE, np.int32)))
    return nodes.cast(wide, "uint8")


def _filled(nodes: Nodes[T], matrix: T, multiple: int) -> T:
    """uint8 [rows, cols]: with zeros behind each row, up to a multiple of columns."""
    one, two = nodes.tensor(np.array([1])), nodes.tensor(np.array([2]))
    cols = nodes.op("Slice", nodes.op("Shape", matrix), one, two)
    missing = nodes.op("Mod", nodes.op("Neg", cols), nodes.tensor(np.array([multiple])))
    return nodes.op("Pad", matrix, nodes.op("Concat", nodes.tensor(np.zeros(3, np.int64)), missing, axis=0))


def _in_pairs(nodes: Nodes[T], numbers: T) -> T:
    """uint8 [rows, cols] of 4 bits → uint8 [rows, ⌈cols/2⌉], the first of two in the lower half of a byte."""
    end, axis, step = (nodes.tensor(np.array([number])) for number in (2**31, 1, 2))
    filled = _filled(nodes, numbers, 2)
    first, second = (nodes.op("Slice", filled, nodes.tensor(np.array([start])), end, axis, step) for start in (0, 1))
    return nodes.op("Add", first, _shift(nodes, second, "LEFT"))


def _moved(nodes: Nodes[T], pairs: T, zeros: T) -> T:
    """Each number of a pair plus its zero, modulo 16; a sum in the upper half of a byte loses what goes beyond."""
    high = _shift(nodes, zeros, "LEFT")
    first = _shift(nodes, nodes.op("Add", _shift(nodes, pairs, "LEFT"), high), "RIGHT")
    second = nodes.op("Add", _shift(nodes, _shift(nodes, pairs, "RIGHT"), "LEFT"), high)
    return nodes.op("Add", first, second)


def _shift(nodes: Nodes[T], x: T, direction: str) -> T:
    """uint8, by half a byte."""
    return nodes.op("BitShift", x, nodes.tensor(np.array(4, np.uint8)), direction=direction)
