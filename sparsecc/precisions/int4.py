"""4-bit integers in groups of inputs, for weights alone: two in a byte, inputs as they are.

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

_BLOCK = 128  # inputs with one scale, in an ONNX file, where a row has one: its operator knows no rows


@dataclass(frozen=True)
class Int4(InGroups):
    """Numbers in [-8, 7]."""

    value_bits: ClassVar[int] = 4
    examples = ("128", "32:asymmetric", "row", "row:asymmetric")

    def product(self, nodes: Nodes[T], x: T, weight: T, scales: Mapping[str, T]) -> T:
        numbers, zeros = self.counted(nodes, weight, scales)
        block = _BLOCK if self.group == ROW else int(self.group)
        numbers = _in_pairs(nodes, _filled(nodes, numbers, block), block // 2)
        steps, blocks = scales["scales"], nodes.op("Shape", numbers)
        if self.group == ROW:
            steps, zeros = (_for_each_block(nodes, of_rows, blocks) for of_rows in (steps, zeros))
        steps = nodes.op("Reshape", steps, nodes.tensor(np.array([-1])))
        packed_zeros = None if self.symmetric else nodes.op("Flatten", _in_pairs(nodes, _filled(nodes, zeros, 2), 1), axis=1)
        return nodes.matmul_nbits(x, numbers, steps, packed_zeros, 4, block)


def _filled(nodes: Nodes[T], matrix: T, multiple: int) -> T:
    """int32 [rows, cols]: with zeros behind each row, up to a multiple of columns."""
    one, two = nodes.tensor(np.array([1])), nodes.tensor(np.array([2]))
    cols = nodes.op("Slice", nodes.op("Shape", matrix), one, two)
    missing = nodes.op("Mod", nodes.op("Neg", cols), nodes.tensor(np.array([multiple])))
    return nodes.op("Pad", matrix, nodes.op("Concat", nodes.tensor(np.zeros(3, np.int64)), missing, axis=0))


def _in_pairs(nodes: Nodes[T], numbers: T, width: int) -> T:
    """int32 [rows, cols] of 4 bits → uint8 [rows, cols/2/width, width], the first of two in the lower half of a byte."""
    pairs = nodes.op("Reshape", numbers, nodes.tensor(np.array([0, -1, width, 2])))
    places = nodes.op("Mul", pairs, nodes.tensor(np.array([1, 16], np.int32)))
    return nodes.cast(nodes.op("ReduceSum", places, nodes.tensor(np.array([-1])), keepdims=0), "uint8")


def _for_each_block(nodes: Nodes[T], of_rows: T, blocks: T) -> T:
    """[rows, 1] → [rows, blocks]. blocks: a shape that begins so; what has no dimensions stays."""
    return nodes.op("Expand", of_rows, nodes.op("Slice", blocks, nodes.tensor(np.array([0])), nodes.tensor(np.array([2]))))
