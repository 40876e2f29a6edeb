"""8-bit integers, a scale for each row or in groups of inputs, for weights alone: inputs as they are. `int8` rounds inputs, too.

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

from sparsecc.precisions._groups import InGroups
from sparsecc.precisions.base import ROW, Group, Nodes, T


@dataclass(frozen=True)
class Int8WeightOnly(InGroups):
    """Numbers in [-128, 127]."""

    value_bits: ClassVar[int] = 8
    examples = ("row", "row:asymmetric", "128", "32:asymmetric")
    group: Group = ROW

    def product(self, nodes: Nodes[T], x: T, weight: T, scales: Mapping[str, T]) -> T:
        numbers, zeros = self.counted(nodes, weight, scales)
        less = nodes.op("Sub", numbers, zeros if self.symmetric else self.spread_in(nodes, zeros, numbers))
        matrix = nodes.op("Mul", nodes.cast(less, "float32"), self.spread_in(nodes, scales["scales"], numbers))
        return nodes.op("MatMul", x, nodes.op("Transpose", matrix, perm=[1, 0]))
