"""The ONNX meaning of the sparse operators: functions in domain `ai.sparsecc` whose bodies are standard operators.

A converted file carries the functions it calls, so a stock onnxruntime runs it: it inlines the body, folds the decoding of
the constant packed tensors when the session is made, and runs a dense product. A node reads

    SparseLinear_<format>[_nobias](x, *packed tensors[, bias])  {format, rows, cols, site}
    SparseConv2d_<format>[_nobias](x, *packed tensors[, bias])  {..., kernel_shape, strides, pads, dilations}

and a body is: decode to W [rows, cols], as the format says in `decode`, then MatMul and Add, or Conv.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_ir as ir

from sparsecc.formats.base import Packed
from sparsecc.ops._onnx_decoding import OnnxOps
from sparsecc.ops.base import ONNX_DOMAIN

if TYPE_CHECKING:
    from sparsecc.formats.base import Format
    from sparsecc.ops.base import SiteOp

MIN_OPSET = 16  # ScatterElements adds since 16
DOMAIN_VERSION = 1
LINEAR, CONV2D = "SparseLinear", "SparseConv2d"
PARAMETER: str = "format"  # the attribute that says how the weight is stored

# Attributes that every layer's node has, whether the body reads them or only who imports the file.
LAYER = {"site": ir.AttributeType.STRING, "rows": ir.AttributeType.INT, "cols": ir.AttributeType.INT}

Value = ir.Value


class Call(NamedTuple):
    """A node to place: its inputs are x, the packed tensors in the format's order and the bias if there is one."""

    op_type: str
    attributes: dict[str, Any]


class Body:
    """Writes a function body operator by operator."""

    def __init__(self, inputs: Sequence[str]) -> None:
        self.inputs = {name: ir.Value(name=name) for name in inputs}
        self.attributes: dict[str, ir.AttributeType] = {}
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
        return self.op("Cast", value, to=int(ir.DataType.INT64))

    def zeros(self, like: Value, shape: Value) -> Value:
        """Zeros of the element type of `like`."""
        return self.op("Expand", self.op("CastLike", self.scalar(0), like), shape)

    def function(self, name: str, output: Value, opset: int, known: Mapping[str, ir.AttributeType]) -> ir.Function:
        """known: attributes that nodes have beside those which the body reads."""
        output.name = "y"
        attributes = [ir.Attr(key, kind, None) for key, kind in {**known, **self.attributes}.items()]
        graph = ir.Graph(list(self.inputs.values()), [output], nodes=self._tape.nodes, name=name, opset_imports={"": opset})
        return ir.Function(ONNX_DOMAIN, name, graph=graph, attributes=attributes)


def op_type(kind: str, format: Format, rows: int, cols: int, bias: bool) -> str:
    """The function's name: `SparseLinear_nm_2_4`, `SparseConv2d_block_4x1_nobias`; the same for all shapes."""
    return f"{kind}_{format.key.replace(':', '_')}" + ("" if bias else "_nobias")


def call(op: SiteOp, site: str) -> Call:
    """The node that stands in the place of a site. The operator's class name is the kind of node."""
    packed = op.stored
    assert isinstance(packed, Packed)
    attributes: dict[str, Any] = {"format": packed.format.key, "rows": packed.rows, "cols": packed.cols, "site": site}
    kind = type(op).__name__
    if kind == CONV2D:
        geometry = {"kernel_shape": op.kernel, "strides": op.stride, "pads": op.padding, "dilations": op.dilation}  # type: ignore[attr-defined]
        attributes |= {name: list(value) for name, value in geometry.items()}
    return Call(op_type(kind, packed.format, packed.rows, packed.cols, op.bias is not None), attributes)


def function(kind: str, format: Format, rows: int, cols: int, bias: bool, opset: int) -> ir.Function:
    """The function that a node of one kind (LINEAR, CONV2D), format and presence of a bias calls, of whatever shape.

    opset: the model's, at least MIN_OPSET; the checker wants functions to agree with their model.
    """
    tensors = format.tensor_names
    body = Body(["x", *tensors, *(["bias"] if bias else [])])
    weight = decoded(body, {name: body.inputs[name] for name in tensors}, format)
    finish = _linear if kind == LINEAR else _conv2d
    known = {**LAYER, "format": ir.AttributeType.STRING}
    return body.function(op_type(kind, format, rows, cols, bias), finish(body, weight, body.inputs.get("bias")), opset, known)


def _linear(body: Body, weight: Value, bias: Value | None) -> Value:
    product = body.op("MatMul", body.inputs["x"], body.op("Transpose", weight, perm=[1, 0]))
    return body.op("Add", product, bias) if bias is not None else product


def _conv2d(body: Body, weight: Value, bias: Value | None) -> Value:
    """The matrix is [out, kh·kw·in] with the channels innermost; Conv wants [out, in, kh, kw]."""
    taps = body.op("Reshape", weight, body.concat(body.rows, body.ints_of("kernel_shape"), body.ints(-1)))
    kernel = body.op("Transpose", taps, perm=[0, 3, 1, 2])
    forwarded = {name: body.forward(name, name) for name in ("strides", "pads", "dilations")}
    operands = (kernel,) if bias is None else (kernel, bias)
    return body.op("Conv", body.inputs["x"], *operands, **forwarded)


def decoded(body: Body, packed: Mapping[str, Value], format: Format) -> Value:
    """The matrix [rows, cols] of packed tensors."""
    return format.decode(OnnxOps(body), packed)
