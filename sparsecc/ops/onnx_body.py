"""Bodies of ONNX functions in domain `ai.sparsecc`, written operator by operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import onnx_ir as ir

from sparsecc.ops.base import ONNX_DOMAIN

MIN_OPSET = 16  # ScatterElements adds since 16
DOMAIN_VERSION = 2  # the first in which int8 has a zero point for each token
RUNTIME_DOMAIN = "com.microsoft"  # onnxruntime's own operators
_FLOAT32 = 1  # accuracy_level of MatMulNBits: inputs stay as they are
_AXES_AS_INPUT = 18  # the opset in which ReduceMax and ReduceMin take their axes as an input

_TYPES = {"float32": ir.DataType.FLOAT, **{kind.name.lower(): kind for kind in ir.DataType}}

Value = ir.Value


class Body:
    """inputs: what the function takes, by name.  opset: of the model that it goes into, at least MIN_OPSET."""

    def __init__(self, inputs: Sequence[str], opset: int) -> None:
        self._opset = opset
        self.inputs = {name: ir.Value(name=name) for name in inputs}
        self.attributes: dict[str, ir.AttributeType] = {}
        self._domains = {"": opset}
        self._tape = ir.tape.Tape()

    @cached_property
    def rows(self) -> Value:
        """int64[1], of the layer's matrix."""
        return self.int_of("rows")

    @cached_property
    def cols(self) -> Value:
        return self.int_of("cols")

    def op(self, op_type: str, *inputs: Value | None, **attributes: ir.Attr | ir.TensorProtocol | int | Sequence[int] | str) -> Value:
        return self._tape.op(op_type, inputs, attributes)

    def ints(self, *values: int) -> Value:
        """A constant int64[n]."""
        return self.op("Constant", value_ints=list(values))

    def scalar(self, value: int) -> Value:
        """A constant int64 without dimensions."""
        return self.op("Constant", value_int=value)

    def tensor(self, array: np.ndarray) -> Value:
        """Any constant."""
        return self.op("Constant", value=ir.Tensor(array))

    def ints_of(self, attribute: str) -> Value:
        """A list-of-ints attribute of the calling node, as int64[n]."""
        return self.op("Constant", value_ints=self.forward("value_ints", attribute))

    def int_of(self, attribute: str) -> Value:
        """An int attribute of the calling node, as int64[1]."""
        number = self.op("Constant", value_int=self.forward("value_int", attribute, ir.AttributeType.INT))
        return self.op("Reshape", number, self.ints(1))

    def forward(self, name: str, to: str, kind: ir.AttributeType = ir.AttributeType.INTS) -> ir.Attr:
        """The calling node's attribute `to`, handed on to an operator of the body as its attribute `name`."""
        self.attributes[to] = kind
        return ir.RefAttr(name, to, kind)

    def concat(self, *parts: Value) -> Value:
        return self.op("Concat", *parts, axis=0)

    def int64(self, value: Value) -> Value:
        return self.cast(value, "int64")

    def cast(self, x: Value, dtype: str) -> Value:
        """dtype: by numpy's name, or bfloat16."""
        return self.op("Cast", x, to=int(_TYPES[dtype]))

    def largest(self, x: Value) -> Value:
        """[..., 1]: along the last axis."""
        return self._end("ReduceMax", x)

    def least(self, x: Value) -> Value:
        """[..., 1]: along the last axis."""
        return self._end("ReduceMin", x)

    def _end(self, op_type: str, x: Value) -> Value:
        if self._opset < _AXES_AS_INPUT:
            return self.op(op_type, x, axes=[-1], keepdims=1)
        return self.op(op_type, x, self.ints(-1), keepdims=1)

    def matmul_nbits(self, x: Value, packed: Value, scales: Value, zeros: Value | None, bits: int, group: int) -> Value:
        """x · Wᵀ by onnxruntime's own operator, see `precisions.base.Nodes`; its sizes are those of the calling node."""
        self._domains[RUNTIME_DOMAIN] = 1
        sizes = {"N": self.forward("N", "rows", ir.AttributeType.INT), "K": self.forward("K", "cols", ir.AttributeType.INT)}
        kind = {"bits": bits, "block_size": group, "accuracy_level": _FLOAT32}
        inputs = (x, packed, scales, *(() if zeros is None else (zeros,)))
        return self._tape.op("MatMulNBits", inputs, {**sizes, **kind}, domain=RUNTIME_DOMAIN)

    def zeros(self, like: Value, shape: Value) -> Value:
        """Zeros of the element type of `like`."""
        return self.op("Expand", self.op("CastLike", self.scalar(0), like), shape)

    def function(self, name: str, output: Value, known: Mapping[str, ir.AttributeType]) -> ir.Function:
        """known: attributes that nodes have beside those which the body reads."""
        output.name = "y"
        attributes = [ir.Attr(key, kind, None) for key, kind in {**known, **self.attributes}.items()]
        graph = ir.Graph(list(self.inputs.values()), [output], nodes=self._tape.nodes, name=name, opset_imports=self._domains)
        return ir.Function(ONNX_DOMAIN, name, graph=graph, attributes=attributes)
